"""Stanford Cars in its official archives, whose site is gone; `reader: hub` has a copy without boxes.

Krause, Stark, Deng, Fei-Fei: "3D Object Representations for Fine-Grained Categorization", 2013.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from gta.datasets.annotations import matlab, record
from gta.errors import InputError

ANNOTATIONS = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
"""The devkit's own file for the test images has no classes."""


def read(root: Path) -> pd.DataFrame:
    """Rows of the index from devkit/, cars_train/, cars_test/ and the test annotations with labels.

    Boxes are inclusive and count from 1. Raises InputError on faulty annotations.
    """
    meta = "devkit/cars_meta.mat"
    (names,) = matlab(root, meta, "class_names")
    names = [str(name) for name in np.atleast_1d(names)]
    rows = []
    for split, name in ANNOTATIONS.items():
        (annotations,) = matlab(root, name, "annotations")
        for number, car in enumerate(np.atleast_1d(annotations), start=1):
            try:
                x0, y0, x1, y1 = (float(car[f"bbox_{key}"]) for key in ("x1", "y1", "x2", "y2"))
                label, file = int(car["class"]) - 1, str(car["fname"])
            except (ValueError, TypeError, IndexError) as error:
                raise InputError(
                    f"{name}: annotation {number}: expected box, class, fname: {error}"
                ) from None
            if not 0 <= label < len(names):
                raise InputError(
                    f"{name}: annotation {number}: expected a class from 1 to {len(names)}, as in {meta}, "
                    f"got {label + 1}"
                )
            path = f"cars_{split}/{file}"
            rows.append(record(path, label, names[label], split, root / path, (x0 - 1, y0 - 1, x1, y1)))
    return pd.DataFrame(rows)
