"""Finds pictures that are, but for details, in training and test, or in training under two labels.

A pair is proposed by perceptual hashes and confirmed by pixels. Copies that were rescaled, recompressed or
slightly recoloured are found; crops and mirrored copies are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from gta.datasets.index import read_index
from gta.params.leaks import Leaks
from gta.views import read_rgb

COLUMNS = ["kind", "first", "second", "first_class", "second_class", "bits", "difference"]
"""kind: 'train and test', or 'two labels' (both in training); first, second: paths as in the index, the
training image first; bits: of 64 that differ between their hashes; difference: of their pixels, mean, 0 to
255."""
SIDE = 64
"""Height and width in pixels at which two pictures are compared; their aspect ratios are let go."""
BLOCK = 1024
"""Rows of the table of all pairs that are held at a time: 24 MB for 3,000 images."""


class Pictures(NamedTuple):
    """The images of an index, in its order."""

    hashes: np.ndarray
    """(N,), uint64."""
    small: np.ndarray
    """(N, SIDE, SIDE, 3), uint8."""


def find_leaks(data: Path, settings: Leaks) -> pd.DataFrame:
    """The pairs of one data set, rows with COLUMNS, nearest first. data: folder with index.csv and images/.

    Raises InputError where an image cannot be decoded.
    """
    index = read_index(data / "index.csv")
    pictures = _read(data, index)
    train = (index["split"] == "train").to_numpy()
    labels = index["label"].to_numpy()
    rows = []
    for first, second, bits in _near(pictures.hashes, settings.bits):
        if train[first] == train[second] and (not train[first] or labels[first] == labels[second]):
            continue
        difference = _difference(pictures.small[first], pictures.small[second])
        if difference <= settings.difference:
            pair = [first, second] if train[first] else [second, first]
            kind = "two labels" if train[first] and train[second] else "train and test"
            names = [index[column].iloc[pair].tolist() for column in ("image", "class")]
            rows.append([kind, *names[0], *names[1], bits, round(difference, 2)])
    found = pd.DataFrame(rows, columns=COLUMNS)
    return found.sort_values(["difference", "bits", "first", "second"], ignore_index=True)


def _read(data: Path, index: pd.DataFrame) -> Pictures:
    hashes, small = [], []
    for name in tqdm(index["image"], desc="hashes", unit=" images", disable=None):
        image = read_rgb(data / name)
        hashes.append(np.packbits(imagehash.phash(image).hash).view(np.uint64)[0])
        small.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)))
    return Pictures(np.array(hashes), np.array(small))


def _near(hashes: np.ndarray, most: int) -> Iterator[tuple[int, int, int]]:
    """(i, j, bits) of every pair i < j whose hashes differ in at most `most` bits."""
    for start in range(0, len(hashes), BLOCK):
        bits = np.bitwise_count(hashes[start : start + BLOCK, None] ^ hashes[None, start:])
        for row, column in np.argwhere(np.triu(bits <= most, 1)):
            yield start + int(row), start + int(column), int(bits[row, column])


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(np.int16) - second).mean())
