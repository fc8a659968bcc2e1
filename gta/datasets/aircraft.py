"""FGVC-Aircraft: 100 variants, a box each.

Maji, Kannala, Rahtu, Blaschko, Vedaldi: "Fine-Grained Visual Classification of Aircraft",
arXiv 1306.5151, 2013.

The lowest 20 pixels of every image are a banner with the photographer's name. The files are kept as they
are, banner included; the boxes leave it out, so attention on it counts as outside the object.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gta.datasets.annotations import find, record, table

DATA = "fgvc-aircraft-2013b/data"


def read(root: Path) -> pd.DataFrame:
    """Rows of the index; `trainval` is the training split, classes are the variants.

    Boxes are inclusive and count from 1. Raises InputError on faulty annotations.
    """
    box_file, name_file = f"{DATA}/images_box.txt", f"{DATA}/variants.txt"
    labels = {name: label for label, (name,) in enumerate(table(root, name_file, str))}
    boxes = {image: box for image, *box in table(root, box_file, str, *[int] * 4)}
    rows = []
    for split, part in (("train", "trainval"), ("test", "test")):
        for image, name in table(root, f"{DATA}/images_variant_{part}.txt", str, str):
            x0, y0, x1, y1 = find(boxes, image, box_file)
            rows.append(
                record(
                    f"{image}.jpg",
                    find(labels, name, name_file),
                    name,
                    split,
                    root / DATA / "images" / f"{image}.jpg",
                    (x0 - 1, y0 - 1, x1, y1),
                )
            )
    return pd.DataFrame(rows)
