"""Stanford Dogs: images of ImageNet, a box for each dog.

Khosla, Jayadevaprakash, Yao, Fei-Fei: "Novel Dataset for Fine-Grained Image Categorization", 2011.

Sources that were pretrained on ImageNet may have seen the test images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from gta.datasets.annotations import matlab, record, voc_box
from gta.errors import InputError


def read(root: Path) -> pd.DataFrame:
    """Rows of the index from Images/, Annotation/ and the lists; one box around all dogs of an image.

    Raises InputError on faulty annotations.
    """
    rows = []
    for split in ("train", "test"):
        files, labels = map(np.atleast_1d, matlab(root, f"{split}_list.mat", "file_list", "labels"))
        if len(files) != len(labels):
            raise InputError(
                f"{split}_list.mat: expected as many labels as files, got {len(labels)} and {len(files)}"
            )
        for path, label in zip(map(str, files), map(int, labels), strict=True):
            box = voc_box(root, f"Annotation/{path.removesuffix('.jpg')}")
            name = path.split("/")[0].partition("-")[2]  # n02085620-Chihuahua/n02085620_5927.jpg
            rows.append(record(path, label - 1, name, split, root / "Images" / path, box))
    return pd.DataFrame(rows)
