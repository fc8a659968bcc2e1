"""Mends what a DVC that was killed while it wrote has left: its lock file, its list of users, its run cache.

    python -m tools.mend      # `make repro` does it first; says nothing where all is well

DVC 3.67 writes the first two in place. A kill, or a full disk, in that moment leaves a dvc.lock that ends in
the middle, which DVC then refuses to read. What is whole of it is kept; entries that are gone are taken from
the last commit, and what is not there either DVC finds in its run cache. An entry of that is a folder, made
before its file: one that is empty stops DVC for good ("join() argument must be str"). Half-written objects of
the cache go. `make cluster` mends all but those, the run cache entry by entry.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from dvc.config import Config
from dvc.lock import LockError, make_lock
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from voluptuous import Invalid

from gta.atomic import atomic_file
from gta.errors import InputError, run

logger = logging.getLogger(__name__)

TMP = Path(".dvc/tmp")
CACHE = Path(".dvc/cache")
USERS = TMP / "rwlock"
"""DVC's list of who reads and writes what; of interest to a DVC that runs at the same time alone."""
ENTRY = re.compile(r"^  (\S.*):$", re.MULTILINE)
"""The first line of a stage in a lock file."""
HASH = re.compile("[0-9a-f]{64}")
"""Name of a file of the run cache; DVC writes to another one first."""
YOUNG = 10.0
"""Seconds after which nobody is still at an entry, whose writing takes some milliseconds."""


def main() -> None:
    with _alone():
        mend_files()
        cache = Path(Config(".dvc")["cache"].get("dir", CACHE))
        for entry in (cache / "runs").glob("*/*"):
            tidy(entry)
        if cache == CACHE:  # in one that others share they may be at work
            for file in (cache / "files/md5").glob(".*.tmp"):
                file.unlink()


@contextmanager
def _alone() -> Iterator[None]:
    """While no DVC writes. Raises InputError where one does for long."""
    TMP.mkdir(parents=True, exist_ok=True)
    hard = Config(".dvc")["core"].get("hardlink_lock", False)
    lock = make_lock(str(TMP / "lock"), tmp_dir=str(TMP), hardlink_lock=hard)
    try:
        lock.lock()
    except LockError:
        raise InputError(f"{TMP / 'lock'}: another DVC is at work here; wait for its end") from None
    try:
        yield
    finally:
        lock.unlock()


def mend_files() -> None:
    """Mends the lock files and the list of users. No DVC may write meanwhile."""
    for path in [Path("dvc.lock"), *sorted(Path("pipelines").rglob("dvc.lock"))]:
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if not is_valid(text):
            _mend(path, text)
    if USERS.exists() and not _is_json(USERS):
        USERS.unlink()
        logger.info("%s was damaged: removed", USERS)


def _mend(path: Path, text: str) -> None:
    kept = entries(text)
    while kept and not is_valid(joined(kept)):
        kept.popitem()
    committed = {name: lines for name, lines in entries(_committed(path)).items() if name not in kept}
    if kept or committed:
        with atomic_file(path) as partial:
            partial.write_text(joined(kept | committed))
    elif path.exists():
        path.unlink()
    else:
        return  # nothing was run yet
    logger.info(
        "%s was damaged: %d whole entries are kept, %d are the last commit's; DVC's run cache has the rest",
        path,
        len(kept),
        len(committed),
    )


def tidy(entry: Path) -> None:
    """Removes what was begun alone from a folder of the run cache, and the folder if it is empty then. Where
    somebody may be at it just now, it waits."""
    if any(map(_is_young, _begun(entry))):
        time.sleep(YOUNG)
    begun = _begun(entry)
    with suppress(OSError):  # who shares the cache tidies too, or has written meanwhile
        for path in begun:
            if path != entry:
                path.unlink(missing_ok=True)
        if begun:
            entry.rmdir()
            logger.info("%s was empty: removed", entry)


def _begun(entry: Path) -> list[Path]:
    """Of a folder of the run cache, the files that DVC has not finished; the folder itself if it is empty."""
    try:
        files = [*entry.iterdir()]
    except FileNotFoundError:
        return []
    return [path for path in files if not HASH.fullmatch(path.name)] if files else [entry]


def _is_young(path: Path) -> bool:
    with suppress(FileNotFoundError):  # finished meanwhile
        return time.time() - path.stat().st_mtime < YOUNG
    return False


def is_valid(text: str) -> bool:
    """Whether DVC would read the lock file, and has written it to the end of a line at least."""
    if not text.endswith("\n"):
        return False
    try:
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(text))
    except (YAMLError, Invalid):
        return False
    return True


def entries(text: str) -> dict[str, str]:
    """The stages of a lock file in their order: name -> its lines. The last may be cut short."""
    starts = [*ENTRY.finditer(text)]
    places = [*(start.start() for start in starts), len(text)]
    return {start[1]: text[slice(*place)] for start, place in zip(starts, pairwise(places), strict=True)}


def joined(stages: dict[str, str]) -> str:
    """A lock file of these stages, as DVC writes it."""
    return "schema: '2.0'\nstages:\n" + "".join(stages.values())


def _committed(path: Path) -> str:
    """The file as of the last commit; empty where it is in none."""
    done = subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 and is_valid(done.stdout) else ""


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    run(main)
