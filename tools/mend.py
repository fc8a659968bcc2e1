"""Mends what a DVC that was killed while it wrote has left: its lock file, its list of users, its run cache.

    python -m tools.mend                   # `make repro` does it first; says nothing where all is well

DVC 3.67 writes the first two in place. A kill, or a full disk, in that moment leaves a dvc.lock that ends in
the middle, which DVC then refuses to read. What is whole of it is kept; entries that are gone are taken from
the last commit, and what is not there either DVC finds in its run cache. An entry of that is a folder, made
before its file: one that is empty stops DVC for good ("join() argument must be str"). Half-written objects of
the cache go.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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


def main() -> None:
    TMP.mkdir(parents=True, exist_ok=True)
    with _alone():
        for path in [Path("dvc.lock"), *sorted(Path("pipelines").rglob("dvc.lock"))]:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            if not is_valid(text):
                _mend(path, text)
        if USERS.exists() and not _is_json(USERS):
            USERS.unlink()
            logger.info("%s was damaged: removed", USERS)
        cache = Path(Config(".dvc")["cache"].get("dir", CACHE))
        _tidy(cache / "runs")
        if cache == CACHE:  # in one that others share they may be at work
            for file in (cache / "files/md5").glob(".*.tmp"):
                file.unlink()


@contextmanager
def _alone() -> Iterator[None]:
    """While no DVC writes. Raises InputError where one does for long."""
    lock = make_lock(str(TMP / "lock"), tmp_dir=str(TMP))
    try:
        lock.lock()
    except LockError:
        raise InputError(f"{TMP / 'lock'}: another DVC is at work here; wait for its end") from None
    try:
        yield
    finally:
        lock.unlock()


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


def _tidy(runs: Path) -> None:
    """Removes entries of the run cache that were begun alone."""
    for entry in runs.glob("*/*"):
        for file in entry.iterdir():
            if not HASH.fullmatch(file.name):
                file.unlink()
        if not any(entry.iterdir()):
            entry.rmdir()
            logger.info("%s was empty: removed", entry)


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
