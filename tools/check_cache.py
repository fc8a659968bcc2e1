"""Rehashes every object of DVC's cache and remotes, names the bad ones, and repairs them from each other.

    python -m tools.check_cache            # or `make check-cache`; exit status 1 where anything was bad

`dvc status`, `checkout` and `push` accept a damaged object of the local cache, and `dvc push` does not bring
back a file that a remote has lost out of a folder. Here every object is read whole. A damaged one is
removed, since DVC would go on trusting it; one that cannot be read stays, since that may pass; each, and a
missing one, is copied from the first place that has it whole: the cache, a remote, or the working tree.
Objects of earlier commits are checked too; what is missing is known for the outputs of this commit alone.
Entries of the run cache have no hash and are not checked. What a killed push has left half-written is
counted, and stays, since it may be a push that is under way.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dvc.repo import Repo
from dvc_data.hashfile.hash import file_md5
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError
from dvc_objects.fs.local import localfs
from tqdm import tqdm

from gta.errors import InputError, run

logger = logging.getLogger(__name__)

EARLIER = "an earlier version, or a run of the run cache"
"""Whose object it is that no output of this commit holds."""

OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
"""Name of an object; DVC uploads by SSH under another one first."""


class Use(NamedTuple):
    """One place of the working tree that holds an object."""

    stage: str
    path: str
    """Of the file or folder, absolute."""
    folder: str | None
    """Name of the object that lists the folder's files, where it is one of them."""


@dataclass
class Store:
    """The cache, or a remote, with what was found in it."""

    name: str
    odb: Any
    whole: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)


def main() -> None:
    with Repo() as repo, repo.lock:
        stores = [Store("cache", repo.cache.local)]
        stores += [Store(f"remote {name}", _remote(repo, name)) for name in repo.config["remote"]]
        for store in stores:
            _examine(store)
        uses = _uses(repo, stores)
        faults = [fault for store in stores for fault in _faults(store, stores, uses)]
        failed = [oid for store, oid, what in faults if not _repair(store, oid, what, stores, uses)]
    objects = ", ".join(f"{store.name}: {len(store.whole)} objects are whole" for store in stores)
    print(f"{objects}; {len(faults)} were bad or missing, {len(faults) - len(failed)} of them are repaired")
    sys.exit(1 if faults else 0)


def _remote(repo: Any, name: str) -> Any:
    """A remote's objects. Raises InputError where it cannot be reached."""
    try:
        remote = repo.cloud.get_remote(name).odb
        remote.fs.exists(remote.path)
    except Exception as error:  # each kind of remote has its own exceptions
        raise InputError(f"remote {name}: cannot be reached: {_reason(error)}") from None
    return remote


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _examine(store: Store) -> None:
    """Reads every object and compares its hash with its name."""
    found = sorted(store.odb.all()) if store.odb.fs.exists(store.odb.path) else []
    names = [name for name in found if OBJECT.fullmatch(name)]
    if begun := len(found) - len(names):
        logger.info("%s: %d half-written files, of a push that was killed or is under way", store.name, begun)
    for oid in tqdm(names, desc=store.name, unit=" objects", disable=None):
        try:
            (store.whole if _is_whole(store.odb, oid) else store.bad).add(oid)
        except Exception as error:  # each kind of remote has its own exceptions
            logger.info("%s: %s: %s", store.name, oid, _reason(error))
            store.unreadable.add(oid)


def _is_whole(odb: Any, oid: str) -> bool:
    """Not DVC's own check, which takes a read-only file for a whole one."""
    return file_md5(odb.oid_to_path(oid), odb.fs) == oid.removesuffix(".dir")


def _uses(repo: Any, stores: list[Store]) -> dict[str, list[Use]]:
    """Where the working tree has each object of this commit's outputs."""
    uses: dict[str, list[Use]] = {}
    for out in repo.index.outs:
        if not out.use_cache or not out.hash_info:
            continue
        oid = out.hash_info.value
        uses.setdefault(oid, []).append(Use(out.stage.addressing, out.fs_path, None))
        for name, inner in _listed(oid, out, stores):
            uses.setdefault(inner, []).append(Use(out.stage.addressing, name, oid))
    return uses


def _listed(oid: str, out: Any, stores: list[Store]) -> Iterator[tuple[str, str]]:
    """(path, object) of the files of a folder, by the first whole listing."""
    for store in stores:
        if oid.endswith(".dir") and oid in store.whole:
            try:
                tree = Tree.load(store.odb, out.hash_info)
            except ObjectFormatError as error:
                raise InputError(f"{store.name}: {oid}: not a listing of a folder: {error}") from None
            for key, _, info in tree:
                yield out.fs.join(out.fs_path, *key), str(info.value)
            return


def _faults(
    store: Store, stores: list[Store], uses: dict[str, list[Use]]
) -> Iterator[tuple[Store, str, str]]:
    """(store, object, fault). A store need not hold an output; it must hold what a folder in it lists, and
    the cache what no remote has."""
    for oid in sorted(store.bad):
        yield store, oid, "damaged"
    for oid in sorted(store.unreadable):
        yield store, oid, "unreadable"
    for oid, places in uses.items():
        if any(oid in other.bad | other.unreadable for other in stores) or oid in store.whole:
            continue
        kept = any(place.folder in store.whole for place in places)
        lost = store is stores[0] and not any(oid in other.whole for other in stores)
        if kept or lost:
            yield store, oid, "missing"


def _repair(store: Store, oid: str, fault: str, stores: list[Store], uses: dict[str, list[Use]]) -> bool:
    """Removes a damaged object, copies a whole one to its place, and says so in a line."""
    if fault == "damaged":
        store.odb.fs.remove(store.odb.oid_to_path(oid))
    places = uses.get(oid, [])
    origin = ""
    for other, path, fs in _copies(store, oid, stores, places):
        try:
            store.odb.add(path, fs, oid, check_exists=False)
            healed = _is_whole(store.odb, oid)
        except Exception as error:  # as above
            raise InputError(f"{store.name}: {oid}: cannot be written: {_reason(error)}") from None
        if healed:
            store.whole.add(oid)
            origin = other
            break
    named = "; ".join(f"{place.stage}: {place.path}" for place in places) or EARLIER
    outcome = f"copied from {origin}" if origin else "nobody has it: removed; `dvc repro` makes it again"
    if fault == "unreadable" and not origin:
        outcome = "nobody else has it: left as it is"
    logger.info("%s: %s is %s (%s): %s", store.name, oid, fault, named, outcome)
    return bool(origin)


def _copies(store: Store, oid: str, stores: list[Store], places: list[Use]) -> Iterator[tuple[str, str, Any]]:
    """(place, path, file system) of each whole copy elsewhere. A remote is filled from this machine alone."""
    for other in stores:
        if other is not store and oid in other.whole and "cache" in (store.name, other.name):
            yield other.name, other.odb.oid_to_path(oid), other.odb.fs
    for place in places:
        if localfs.isfile(place.path) and file_md5(place.path, localfs) == oid:
            yield "the working tree", place.path, localfs


if __name__ == "__main__":
    run(main)
