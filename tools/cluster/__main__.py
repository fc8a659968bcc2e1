"""Runs everything that is stale, many stages at once; DVC alone says what that is.

    python -m tools.cluster            # or `make cluster`; cluster.yaml says where, and on how many workers

Run it again after anything: what has finished is kept, jobs on Slurm are found again, training goes on from
its checkpoints. Ctrl-C stops all workers. Exit status 1 where a stage failed; those that do not need it have
run. At the end a plain `dvc repro` shows that nothing is left to do.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dvc.exceptions import DvcException

from gta.errors import InputError, run
from tools.cluster.grid import opened
from tools.cluster.head import Head
from tools.cluster.settings import read_settings
from tools.cluster.task import FOLDER, kinds


def main() -> None:
    logging.getLogger("dvc").setLevel(logging.WARNING)
    with _alone():
        try:
            _run()
        except DvcException as error:
            raise InputError(" ".join(str(error).split())) from error
        _prove()
        for name in ("code", "tasks", "work", "slurm"):
            shutil.rmtree(FOLDER / name, ignore_errors=True)


def _run() -> None:
    """Raises InputError with a line for every stage that failed."""
    with opened() as grid:
        head = Head(grid, read_settings(kinds(grid)))
        try:
            head.run()
        except KeyboardInterrupt:
            head.stop()
            head.write()
            sys.exit("stopped, nothing is left running; `make cluster` goes on from here")
    told = [f"{name}: {text}" for name, text in head.failed.items() if text]
    if told:
        more = len(head.failed) - len(told)
        need = f"need {'it' if len(told) == 1 else 'them'}"
        raise InputError(
            "\n".join([*told, *([f"left out, since they {need}: {more} stages"] if more else [])])
        )


def _prove() -> None:
    """A plain `dvc repro`: it has nothing to do, or does it."""
    done = subprocess.run(["dvc", "repro"], stdout=subprocess.PIPE, text=True)
    print(*[line for line in done.stdout.splitlines() if "didn't change" not in line], sep="\n")
    if done.returncode:
        sys.exit(done.returncode)


@contextmanager
def _alone() -> Iterator[None]:
    """Raises InputError where another one runs in this folder."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("`make cluster` runs already in this folder") from None
        yield


if __name__ == "__main__":
    run(main)
