"""PASCAL VOC 2012: the validation images of its segmentation task, with a mask each.

Everingham, Van Gool, Williams, Winn, Zisserman: "The PASCAL Visual Object Classes Challenge 2012", 2012.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gta.datasets.annotations import record, table

FOLDERS = {"class": "SegmentationClass", "instance": "SegmentationObject"}
"""Where the masks lie, by what they tell apart."""


def read(root: Path, masks: Literal["class", "instance"]) -> pd.DataFrame:
    """Rows of the index from VOCdevkit/VOC2012: the list `val`, as test images of one class, since an image
    has objects of several. Raises InputError on faulty annotations.
    """
    year = "VOCdevkit/VOC2012"
    return pd.DataFrame(
        [
            record(
                f"{name}.jpg",
                0,
                "voc",
                "test",
                root / year / "JPEGImages" / f"{name}.jpg",
                mask_file=root / year / FOLDERS[masks] / f"{name}.png",
            )
            for (name,) in table(root, f"{year}/ImageSets/Segmentation/val.txt", str)
        ]
    )


def code_mask(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As they are: 0 background, 255 void (edges and what is difficult), between them classes or objects."""
    return values
