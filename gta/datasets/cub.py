"""CUB-200-2011: birds, a box each; the segmentations come in an archive of their own.

Wah, Branson, Welinder, Perona, Belongie: "The Caltech-UCSD Birds-200-2011 Dataset", 2011.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gta.datasets.annotations import find, record, table


def read(root: Path) -> pd.DataFrame:
    """Rows of the index (see gta.datasets.annotations.record) from CUB_200_2011/ and segmentations/.

    Boxes are given as x, y, width, height. Without the folder `segmentations` there are no masks.
    Raises InputError on faulty annotations.
    """
    files = {
        key: f"CUB_200_2011/{key}.txt"
        for key in ("images", "classes", "image_class_labels", "train_test_split", "bounding_boxes")
    }
    names = dict(table(root, files["classes"], int, str))
    labels = {number: label for label, number in enumerate(names)}
    classes = dict(table(root, files["image_class_labels"], int, int))
    splits = dict(table(root, files["train_test_split"], int, int))
    boxes = {number: box for number, *box in table(root, files["bounding_boxes"], int, *[float] * 4)}
    masks = root / "segmentations" if (root / "segmentations").is_dir() else None
    rows = []
    for number, path in table(root, files["images"], int, str):
        x, y, width, height = find(boxes, number, files["bounding_boxes"])
        kind = find(classes, number, files["image_class_labels"])
        is_train = find(splits, number, files["train_test_split"])
        rows.append(
            record(
                path,
                find(labels, kind, files["classes"]),
                names[kind],
                find({0: "test", 1: "train"}, is_train, "is_training_image"),
                root / "CUB_200_2011" / "images" / path,
                (x, y, x + width, y + height),
                None if masks is None else masks / Path(path).with_suffix(".png"),
            )
        )
    return pd.DataFrame(rows)


def code_mask(votes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey levels are shares of annotators' votes: the object is where more than half of them saw it."""
    return (votes > 127).astype(np.uint8)
