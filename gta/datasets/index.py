"""The index of a data set: one row an image, the same columns whatever the data set."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gta.atomic import atomic_file

COLUMNS = ["image", "label", "class", "split", "x0", "y0", "x1", "y1", "mask"]
"""image: path in the data folder, with forward slashes ('images/...'); label: 0 .. classes-1;
class: its name; split: 'train' or 'test'; x0, y0, x1, y1: the object's box in pixels, x1 and y1
exclusive, empty where unknown; mask: path in the data folder ('masks/...png', one channel, 8 bit:
0 background, 1 object, 255 void; in PASCAL VOC 2, 3, ... are objects, or classes, too) or empty."""


def write_index(index: pd.DataFrame, path: Path) -> None:
    """Writes the rows in order of split and path, so that the file is the same on every machine."""
    with atomic_file(path) as partial:
        index[COLUMNS].sort_values(["split", "image"]).to_csv(
            partial, index=False, float_format="%.6g", lineterminator="\n"
        )


def read_index(path: Path) -> pd.DataFrame:
    """An index (or a list of a split, which has the same columns); boxes float, NaN where unknown."""
    types = {"image": str, "label": int, "class": str, "split": str, "mask": str}
    boxes = dict.fromkeys(["x0", "y0", "x1", "y1"], float)
    index = pd.read_csv(
        path, dtype={**types, **boxes}, keep_default_na=False, na_values={k: [""] for k in boxes}
    )
    return index[COLUMNS]
