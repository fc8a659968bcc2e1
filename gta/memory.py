"""A lack of memory, told in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gta.errors import InputError

OF_A_CPU = re.compile(r"DefaultCPUAllocator|can't allocate memory|Cannot allocate memory|bad_alloc")
"""In the RuntimeErrors and OSErrors by which torch's CPU allocator, its libraries and the system tell it."""


@contextmanager
def told(what: str, advice: str) -> Iterator[None]:
    """Raises InputError in place of what says that memory, a GPU's or the machine's, is used up."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or OF_A_CPU.search(str(error)):
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{what}: out of memory {advice} ({reason})") from None
        raise
