"""A warning that this process is about to be killed: training saves at the end of its epoch, and ends."""

from __future__ import annotations

import signal
import threading

STATUS = 75
"""Exit status of a process that has saved and could not finish: sysexits' "try again later"."""
SIGNAL = signal.SIGUSR2
"""What a cluster sends some time before it kills; NCCL may use the other one."""

_came = threading.Event()


def listen() -> None:
    """From now on the signal no longer ends this process."""
    signal.signal(SIGNAL, lambda _number, _frame: _came.set())


def came() -> bool:
    """Whether the signal was sent."""
    return _came.is_set()
