"""Which processes work in a folder, as those do that a killed run may leave behind."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def working_in(path: Path) -> list[int]:
    """The processes whose working folder this is, or lies in it. (Linux)"""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if link.readlink().is_relative_to(path):
                found.append(int(link.parent.name))
    return found


def holding(path: Path) -> list[int]:
    """The processes that have a file open which is this, or lies in it. (Linux)"""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink().is_relative_to(path):
                found.add(int(link.parent.parent.name))
    return sorted(found)
