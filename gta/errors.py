"""How a stage runs: a user's mistake is one exception, printed as one line; nothing outlives DVC."""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
from collections.abc import Callable


class InputError(Exception):
    """Bad input: a parameter, a file or a command line. The message is for the user, a line a mistake."""


def run(main: Callable[[], None]) -> None:
    """Runs a stage: logs to stderr; an InputError becomes one plain line and exit status 1.

    The stage ends with `dvc repro`, even where that is killed: else a second `dvc repro` would find a
    first stage still writing. (Linux; elsewhere a killed DVC leaves its stage running.)
    """
    if sys.platform == "linux":
        parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "PIL", "matplotlib", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
