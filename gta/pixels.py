"""A data set's images decoded once: one after another in a memory-mapped file that all cells share.

`<name>.npy` is a flat uint8 array (format of NumPy), RGB, row after row; `<name>.csv` tells which image lies
where.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from gta.atomic import atomic_file
from gta.errors import InputError
from gta.views import Array, read_rgb


def pack(folder: Path, names: list[str], side: int | None, path: Path) -> None:
    """Writes the images `names` of `folder` to `path` (.npy) and beside it (.csv).

    side: an image whose shorter side is longer is made smaller to it (bicubic); None keeps all as they are.
    Raises InputError where an image cannot be decoded.
    """
    full = [_size(folder / name) for name in names]
    sizes = [_within(width, height, side) for width, height in full]
    ends = np.cumsum([0, *(width * height * 3 for width, height in sizes)]).tolist()

    def place(number: int) -> str:
        image = read_rgb(folder / names[number])
        if image.size != sizes[number]:
            image = image.resize(sizes[number], Image.Resampling.BICUBIC)
        pixels = np.asarray(image).reshape(-1)
        stored[ends[number] : ends[number + 1]] = pixels
        return hashlib.sha256(pixels.data).hexdigest()

    with atomic_file(path.with_suffix(".csv")) as table, atomic_file(path) as partial:
        stored = _array(partial, ends[-1])
        with ThreadPoolExecutor() as threads:  # Pillow decodes without Python's lock
            placed = threads.map(place, range(len(names)))
            hashes = list(tqdm(placed, "decoding", len(names), unit=" images", disable=None))
        if isinstance(stored, np.memmap):
            stored.flush()
        rows = {
            "image": names,
            "width": [width for width, _ in sizes],
            "height": [height for _, height in sizes],
            "full_width": [width for width, _ in full],
            "full_height": [height for _, height in full],
            "sha256": hashes,
        }
        pd.DataFrame(rows).to_csv(table, index=False, lineterminator="\n")


def _size(path: Path) -> tuple[int, int]:
    """Width and height, of which a decoder tells before it decodes."""
    try:
        with Image.open(path) as image:
            return image.size
    except OSError:
        return read_rgb(path).size  # which says what is wrong


def _within(width: int, height: int, side: int | None) -> tuple[int, int]:
    scale = 1.0 if side is None else min(1.0, side / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _array(path: Path, length: int) -> Array:
    """A new array in the file. Its room is taken at once: a mapped page that finds none is a bus error."""
    with path.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(stream, header)
        if length and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), stream.tell(), length)
    stored: Array = np.load(path, mmap_mode="r+" if length else None)  # an empty one cannot be mapped
    return stored


class Pixels:
    """The images of such a file, by name; they are read from disk when they are asked for.

    Raises InputError where the files are missing or do not belong together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            table = pd.read_csv(path.with_suffix(".csv"), dtype={"image": str, "sha256": str})
            stored = np.load(path, mmap_mode="r" if len(table) else None)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: expected the images of stage `pack`: {error}") from None
        ends = np.cumsum([0, *(table["width"] * table["height"] * 3)]).tolist()
        if len(stored) != ends[-1]:
            raise InputError(f"{path}: expected the {ends[-1]} bytes of its .csv, got {len(stored)}")
        self.flat: Array = stored
        """All, one after another."""
        self._rows: dict[str, Any] = {
            row["image"]: {**row, "start": start}
            for row, start in zip(table.to_dict("records"), ends, strict=False)
        }

    def __reduce__(self) -> tuple[type[Pixels], tuple[Path]]:
        return Pixels, (self.path,)  # another process maps the file too

    def __getitem__(self, name: str) -> Array:
        """(height, width, 3). Raises InputError where there is no such image."""
        row = self._row(name)
        height, width, start = row["height"], row["width"], row["start"]
        return self.flat[start : start + height * width * 3].reshape(height, width, 3)

    def full_size(self, name: str) -> tuple[int, int]:
        """Width and height of the image's file, in whose pixels boxes and masks are."""
        row = self._row(name)
        return row["full_width"], row["full_height"]

    def hashes(self, names: Iterable[str]) -> list[str]:
        """Of each image as it is stored, SHA-256 in hex."""
        return [self._row(name)["sha256"] for name in names]

    def nbytes(self, names: Iterable[str]) -> int:
        """What these images take."""
        return sum(row["height"] * row["width"] * 3 for row in map(self._row, names))

    def _row(self, name: str) -> Any:
        try:
            return self._rows[name]
        except KeyError:
            raise InputError(f"{self.path}: has no image {name!r}; has `dvc repro pack` run?") from None
