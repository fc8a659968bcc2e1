"""A cell of the grid (data set x fraction x method): its seeds, and what outlives a killed process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from gta.errors import InputError


def fingerprint(parts: dict[str, Any], files: Iterable[Path]) -> str:
    """A hash of everything that a seed's result depends on: 16 hex digits.

    parts: plain values, such as parameters and the seed; files: read whole. The code of this package that
    is loaded and the version of torch count too, so that a checkpoint is never continued by other code.
    Raises InputError where a file cannot be read.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    ours = [name for name in sorted(sys.modules) if name == "__main__" or name.split(".")[0] == "gta"]
    loaded = [getattr(sys.modules[name], "__file__", None) for name in ours]
    digest.update(torch.__version__.encode())
    for path in [*files, *(Path(name) for name in loaded if name)]:
        try:
            with path.open("rb") as stored:
                digest.update(hashlib.file_digest(stored, "sha256").digest())
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()[:16]


def keep_only(folder: Path, names: Iterable[str]) -> None:
    """Removes from `folder` the state of seeds that this cell no longer has."""
    wanted = set(names)
    for entry in folder.iterdir():
        if entry.name not in wanted:
            shutil.rmtree(entry)


def link(path: Path, target: Path) -> None:
    """Puts the file `path` at `target` too: without a second copy on disk where links are possible.

    DVC moves outputs into its cache, so the state keeps the cached file itself, and a cell that gets one
    more seed trains that seed alone.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
