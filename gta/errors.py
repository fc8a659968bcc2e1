"""The one exception that stands for a user's mistake, and how a stage prints it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable


class InputError(Exception):
    """Bad input: a parameter, a file or a command line. The message is for the user, a line a mistake."""


def run(main: Callable[[], None]) -> None:
    """Runs a stage: logs to stderr; an InputError becomes one plain line and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "PIL", "matplotlib", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
