"""The source's [CLS] rows, kept on disk for cells that see the same views, such as a sweep of GTA's weight.

The source is frozen, and what it sees is a function of (seed, epoch, image) and of few settings. The first
cell of a sweep keeps an epoch's rows as one file, and the others read it instead of running the source: the
same bits, whoever has computed them. A file that is missing or cannot be read is no error, the source runs.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gta.atomic import atomic_file
from gta.attention import LogitRecorder
from gta.shards import rank

log = logging.getLogger(__name__)

USED = "used"
"""A file that all who use the folder hold locked."""
LARGEST = 2**30
"""Bytes of an epoch's rows, which lie in memory as long as it lasts; of a larger one nothing is kept."""


class Targets:
    """One seed's rows, a file an epoch.

    folder: named by all but the seed that the rows depend on, so that a sweep shares it; limit: bytes that it
    and the folders beside it may take. Those that no process uses make room, the least recent first; what
    does not fit even so is computed each time. cell: which of the sweep's this is.
    """

    def __init__(self, folder: Path, seed: int, limit: float, cell: str = "") -> None:
        self.folder, self.seed, self.limit, self.cell = folder, seed, limit, cell
        self.read = 0
        """Images of the epochs whose rows this process has read, so far, each of several its part."""
        self._given: Tensor | None = None
        """Of the epoch: (images, layers, heads, tokens), in its order."""
        self._made: Tensor | None = None
        """The same, where the source makes them."""
        self._next = self._images = 0
        self._used: IO[str] | None = None
        """A file of the folder, locked as long as it is used."""

    @contextmanager
    def epoch(self, number: int, images: int) -> Iterator[None]:
        """Within, each pass of the source is read, or is kept at the end. images: at most so many come."""
        path = self.folder / f"{self.seed}-{number}-{rank()}.safetensors"
        self._given, self._made = self._stored(path), None
        self._next, self._images = 0, images
        yield
        if self._given is not None:
            self.read += images
        elif self._made is not None:
            self._keep(path, self._made[: self._next])
        self._given = self._made = None

    def instead(self, look: Callable[..., None], recorder: LogitRecorder) -> Callable[..., None]:
        """`look`, a pass of the source over images that fills the recorder, but where that can be spared."""

        def passed(images: Tensor, **options: Any) -> None:
            part = slice(self._next, self._next + len(images))
            self._next = part.stop
            if self._given is not None:
                recorder.rows = dict(zip(recorder.layers, self._given[part].unbind(1), strict=True))
                return
            look(images, **options)
            rows = tuple(recorder.rows[layer] for layer in recorder.layers)
            if part.start == 0:
                self._made = self._room(rows)
            if self._made is not None:
                torch.stack(rows, dim=1, out=self._made[part])

        return passed

    def _use(self) -> None:
        """Keeps the folder from others who make room, as long as this object lives; where files cannot be
        locked, as on some network drives, it does not."""
        while self._used is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # removed meanwhile, by who makes room
                file = (self.folder / USED).open("a+")
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_SH)
                if os.path.samestat(os.fstat(file.fileno()), (self.folder / USED).stat()):
                    self._used = file

    def _stored(self, path: Path) -> Tensor | None:
        try:
            rows = load_file(path)["rows"].clone()  # else it lies in the file, which may vanish
            os.utime(self.folder)  # used last
            self._use()
        except (OSError, SafetensorError, KeyError):
            return None
        return rows

    def _room(self, rows: tuple[Tensor, ...]) -> Tensor | None:
        """Memory for an epoch of passes like this one; None where they would be too many."""
        shape = (self._images, len(rows), *rows[0].shape[1:])
        size = rows[0].element_size() * torch.Size(shape).numel()
        return rows[0].new_empty(shape) if size <= min(LARGEST, self.limit) else None

    def _keep(self, path: Path, rows: Tensor) -> None:
        """Writes the file, whole or not at all."""
        try:
            if self._fits(rows.nbytes):
                self._use()
                with atomic_file(path, by=self.cell) as partial:
                    save_file({"rows": rows.contiguous()}, partial)
        except (OSError, SafetensorError) as error:
            log.warning(f"{path}: the source's attention is not kept for other cells: {error}")
            self.limit = 0

    def _fits(self, size: int) -> bool:
        """Whether there is room, once what was used least recently has made it."""
        everything = self.folder.parent
        others = [folder for folder in everything.glob("*") if folder != self.folder]
        sizes = {folder: _size(folder) for folder in [*others, self.folder]}
        for folder in sorted(others, key=_last_use):
            if sum(sizes.values()) + size <= self.limit:
                break
            if _removed(folder):
                del sizes[folder]
        return sum(sizes.values()) + size <= self.limit


def _size(folder: Path) -> int:
    """Bytes of a folder's files, what killed processes have left included, of those that do not vanish
    meanwhile."""
    sizes = 0
    for path in folder.glob("*"):
        try:
            sizes += path.stat().st_size
        except FileNotFoundError:
            continue
    return sizes


def _removed(folder: Path) -> bool:
    """Removes a folder, but not where a process reads or writes its rows."""
    with ExitStack() as contexts:
        with suppress(FileNotFoundError):
            file = contexts.enter_context((folder / USED).open("r+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:  # no file can be locked here
                pass
        shutil.rmtree(folder, ignore_errors=True)
    return True


def _last_use(folder: Path) -> float:
    """When a folder was last used; a vanished one, never."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
