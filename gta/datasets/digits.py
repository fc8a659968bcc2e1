"""The embedded data set: scikit-learn's handwritten digits, composed into cluttered scenes.

The digits are those of Alpaydin and Kaynak (1998), "Optical recognition of handwritten digits", 1,797
of 8 x 8 pixels. A class is recognised by its strokes alone: place, size, colour and background say
nothing. In a small training set they can still be learnt by heart, which is the shortcut.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gta.datasets.scenes import compose
from gta.params.digits import Digits


def build(entry: Digits, folder: Path) -> pd.DataFrame:
    """Writes `images/` and `masks/` (png) into `folder` and returns their index."""
    generator = torch.Generator().manual_seed(entry.seed)
    rows = []
    for split, glyphs, labels in _glyphs(entry):
        images, masks = compose(glyphs, entry.size, entry.clutter, generator)
        for number, (image, mask, label) in enumerate(zip(images, masks, labels.tolist(), strict=True)):
            name = f"{split}/{label}/{number:04d}.png"
            for kind in ("images", "masks"):
                (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / name)
            Image.fromarray(mask.byte().numpy()).save(folder / "masks" / name)
            ys, xs = mask.nonzero(as_tuple=True)
            box = {"x0": xs.min(), "y0": ys.min(), "x1": xs.max() + 1, "y1": ys.max() + 1}
            rows.append(
                {"image": f"images/{name}", "label": label, "class": str(label), "split": split}
                | {key: float(value) for key, value in box.items()}
                | {"mask": f"masks/{name}"}
            )
    return pd.DataFrame(rows)


def _glyphs(entry: Digits) -> list[tuple[str, Tensor, Tensor]]:
    """The digits of each split: opacity (B, 1, 32, 32) in [0, 1] and labels (B).

    Training digits come from the front of the file, test digits from its end, so that none is in both.
    """
    from sklearn.datasets import load_digits  # three seconds that only this data set should pay

    pixels, targets = load_digits(return_X_y=True)
    opacity = F.interpolate(
        torch.as_tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, (32, 32), mode="bicubic"
    )
    opacity = ((opacity - 0.3) * 4).clamp(0, 1)
    labels = torch.as_tensor(targets)
    order = [(labels == label).nonzero().flatten() for label in range(10)]
    chosen = {
        "train": torch.cat([rows[: entry.train] for rows in order]),
        "test": torch.cat([rows[-entry.test :] for rows in order]),
    }
    return [(split, opacity[rows], labels[rows]) for split, rows in chosen.items()]
