"""Batches of a list of images, the same whatever the number of reading processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gta.views import Crop, box_mask, centre_mask, centre_view, read_rgb, train_view

REGIONS = ("box", "mask")
"""Where the object can be known: its box, its mask."""


class Epochs(Sampler[list[tuple[int, int]]]):
    """Yields an epoch's batches as (epoch, row) pairs, shuffled by (seed, epoch) alone. Set `epoch` first."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count).tolist()
        for start in range(0, self.count, self.batch_size):
            yield [(self.epoch, row) for row in order[start : start + self.batch_size]]


class TrainImages(Dataset[tuple[Tensor, int]]):
    """(epoch, row) -> random views (views, 3, size, size), uint8, and label; seeded by (seed, epoch, row)."""

    def __init__(
        self, folder: Path, rows: pd.DataFrame, size: int, crop: Crop, seed: int, views: int = 1
    ) -> None:
        self.paths = [folder / name for name in rows["image"]]
        self.labels = rows["label"].tolist()
        self.size, self.crop, self.seed, self.views = size, crop, seed, views

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, row = item
        image, seed = read_rgb(self.paths[row]), (self.seed, epoch, row)
        seeds = [seed, *((*seed, view) for view in range(1, self.views))]
        views = [train_view(image, self.size, self.crop, each) for each in seeds]
        return torch.from_numpy(np.stack(views)), self.labels[row]


class CentreImages(Dataset[dict[str, Any]]):
    """row -> its centre view and what is known of the object in that view.

    `image` (3, size, size), uint8; `label`; where `with_objects`, for each region a mask (size, size),
    uint8 in the index's coding, all 255 where the data set does not know it.
    """

    def __init__(self, folder: Path, rows: pd.DataFrame, size: int, share: float, with_objects: bool) -> None:
        self.folder, self.rows = folder, rows.to_dict("records")
        self.size, self.share, self.with_objects = size, share, with_objects

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number]
        image = read_rgb(self.folder / row["image"])
        item = {"image": torch.tensor(centre_view(image, self.size, self.share)), "label": row["label"]}
        return item | self._objects(row, image) if self.with_objects else item

    def _objects(self, row: dict[Any, Any], image: Image.Image) -> dict[str, Tensor]:
        box = mask = np.full((self.size, self.size), 255, np.uint8)
        if not np.isnan(row["x0"]):
            corners = (row["x0"], row["y0"], row["x1"], row["y1"])
            box = box_mask(corners, image.width, image.height, self.size, self.share)
        if row["mask"]:
            with Image.open(self.folder / row["mask"]) as stored:
                mask = centre_mask(stored, self.size, self.share)
        return {"box": torch.tensor(box), "mask": torch.tensor(mask)}


def train_loader(images: TrainImages, batch_size: int, workers: int) -> tuple[DataLoader[Any], Epochs]:
    """Batches of views (B, views, 3, size, size), uint8, and labels (B); set the sampler's epoch before
    each."""
    sampler = Epochs(len(images.labels), batch_size, images.seed)
    loader = DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # else each epoch's iterator draws from the global one
        pin_memory=torch.cuda.is_available(),
    )
    return loader, sampler


def centre_loader(images: CentreImages, batch_size: int, workers: int) -> DataLoader[Any]:
    """Batches of the whole list in its order."""
    return DataLoader(images, batch_size, num_workers=workers, pin_memory=torch.cuda.is_available())
