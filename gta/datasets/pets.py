"""Oxford-IIIT Pet: cats and dogs; a trimap each, and a box around the head of some.

Parkhi, Vedaldi, Zisserman, Jawahar: "Cats and Dogs", 2012.

Some files are not what their name says: a GIF and RGBA PNGs called .jpg. They are kept as they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gta.datasets.annotations import record, table, voc_box


def read(root: Path) -> pd.DataFrame:
    """Rows of the index from images/ and annotations/; `trainval` is the training split.

    Official boxes are of the head, and of training images only. Without the folder `trimaps` there are
    no masks. Raises InputError on faulty annotations.
    """
    parts = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}
    listed = [
        (split, name, kind)
        for split, file in parts.items()
        for name, kind, _species, _breed in table(root, file, str, int, int, int)
    ]
    labels = {kind: label for label, kind in enumerate(sorted({kind for _, _, kind in listed}))}
    trimaps = root / "annotations" / "trimaps"
    rows = []
    for split, name, kind in listed:
        head = f"annotations/xmls/{name}.xml"
        rows.append(
            record(
                f"{name}.jpg",
                labels[kind],
                name.rpartition("_")[0],
                split,
                root / "images" / f"{name}.jpg",
                voc_box(root, head) if (root / head).exists() else None,
                trimaps / f"{name}.png" if trimaps.is_dir() else None,
            )
        )
    return pd.DataFrame(rows)


def code_mask(trimap: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """1 object, 2 background, 3 the border between them, which is void. Raises ValueError on other values."""
    others = np.setdiff1d(trimap, [1, 2, 3])
    if others.size:
        raise ValueError(f"expected values 1, 2, 3, got {others[0]}")
    return np.array([0, 1, 0, 255], np.uint8)[trimap]
