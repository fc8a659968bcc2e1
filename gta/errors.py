"""How a stage runs: a user's mistake is one exception, printed as one line; nothing outlives DVC."""

from __future__ import annotations

import atexit
import errno
import gc
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

SHELLS = {"sh", "dash", "bash", "zsh", "ksh", "fish", "busybox"}
"""Between DVC and a stage stands one of these, where it does not replace itself by the stage."""
LAUNCHER = "GTA_LAUNCHER"
"""The environment variable with the number of the process that gta.processes has launched this one from."""
DISK = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "let it be written",
    errno.EACCES: "let this user read and write it",
    errno.EPERM: "let this user read and write it",
    errno.EFBIG: "let this user write larger files",
    errno.EIO: "look after the disk",
    errno.ENOENT: "see who removed it",
    errno.EEXIST: "remove what is in its place",
    errno.ENOTDIR: "remove what is in the place of a folder",
}
"""Faults of the disk that no code can help -> what the user has to do."""


class InputError(Exception):
    """Bad input: a parameter, a file or a command line. The message is for the user, a line a mistake."""


def run(main: Callable[[], None]) -> None:
    """Runs a stage: logs to stderr; an InputError, or a fault of the disk, becomes one plain line and exit
    status 1, Ctrl-C a line and 130.

    A program's own `main` ends the process once it has returned. The stage ends with `dvc repro`, or with the
    process that launched it, even where that is killed: else a second `dvc repro` would find a first stage
    still writing. (Linux; elsewhere a killed DVC leaves its stage running.)
    """
    gc.enable()  # which a stage leaves off while it imports
    if sys.platform == "linux" and not {LAUNCHER, "DVC_STAGE"}.isdisjoint(os.environ):
        parent = int(os.environ[LAUNCHER]) if LAUNCHER in os.environ else _dvc()
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "PIL", "matplotlib", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    status = 0
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except OSError as error:
        if error.errno not in DISK or error.filename is None:
            raise
        advice = f"{DISK[error.errno]}, then `make repro` goes on"
        print(f"error: {error.filename}: {error.strerror}; {advice}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted; `make repro` goes on", file=sys.stderr)
        status = 128 + signal.SIGINT
    if main.__module__ == "__main__":
        _leave(status)
    if status:
        sys.exit(status)


def _leave(status: int) -> NoReturn:
    """Ends this process, whose work is done. Python would first take apart what was imported, which with
    torch and timm takes more than a second."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _dvc() -> int | None:
    """The process number of the DVC that runs this stage: its parent, or that of the shell between.

    None where it ended before it came to this line: DVC and its stage are of one process group, and who has
    adopted the stage is of another.
    """
    parent = os.getppid()
    try:
        if Path(f"/proc/{parent}/comm").read_text().strip() in SHELLS:
            parent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
        return parent if os.getpgid(parent) == os.getpgid(0) else None
    except (FileNotFoundError, ProcessLookupError):
        return None


def _end_with(pid: int | None) -> None:
    """Waits for the end of another process, if it has not ended, and kills this one."""
    try:
        if pid is not None:
            ended = select.poll()
            ended.register(os.pidfd_open(pid), select.POLLIN)
            ended.poll()
    except ProcessLookupError:
        pass
    os.kill(os.getpid(), signal.SIGKILL)
