"""Batches of a list of images, the same whatever the number of reading processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gta.crops import Resident, memory_to_cut
from gta.pixels import Pixels
from gta.precision import sent
from gta.views import Crop, View, box_mask, centre_mask, centre_view, draw, train_view

log = logging.getLogger(__name__)

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
        self, pixels: Pixels, rows: pd.DataFrame, size: int, crop: Crop, seed: int, views: int = 1
    ) -> None:
        self.pixels, self.names, self.labels = pixels, rows["image"].tolist(), rows["label"].tolist()
        self.size, self.crop, self.seed, self.views = size, crop, seed, views

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        row = item[1]
        image = self.pixels[self.names[row]]
        views = [train_view(image, self.size, self.crop, seed) for seed in self.seeds(*item)]
        return torch.from_numpy(np.stack(views)), self.labels[row]

    def drawn(self, epoch: int, row: int) -> list[View]:
        """Where each of the views is, for who cuts them elsewhere."""
        height, width, _ = self.pixels[self.names[row]].shape
        seeds = self.seeds(epoch, row)
        return [draw(width, height, self.crop, np.random.default_rng(seed)) for seed in seeds]

    def seeds(self, epoch: int, row: int) -> list[tuple[int, ...]]:
        """Of each of the image's views."""
        seed = (self.seed, epoch, row)
        return [seed, *((*seed, view) for view in range(1, self.views))]


class CentreImages(Dataset[dict[str, Any]]):
    """row -> its centre view and what is known of the object in that view.

    `image` (3, size, size), uint8; `label`; where `data` is given, the folder in which the index's masks lie,
    for each region a mask (size, size), uint8 in the index's coding, all 255 where the data set does not
    know it.
    """

    def __init__(
        self, pixels: Pixels, rows: pd.DataFrame, size: int, share: float, data: Path | None = None
    ) -> None:
        self.pixels, self.rows, self.data = pixels, rows.to_dict("records"), data
        self.size, self.share = size, share

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number]
        view = centre_view(self.pixels[row["image"]], self.size, self.share)
        item = {"image": torch.tensor(view), "label": row["label"]}
        return item if self.data is None else item | self._objects(row, self.data)

    def _objects(self, row: dict[Any, Any], data: Path) -> dict[str, Tensor]:
        box = mask = np.full((self.size, self.size), 255, np.uint8)
        if not np.isnan(row["x0"]):
            corners = (row["x0"], row["y0"], row["x1"], row["y1"])
            box = box_mask(corners, *self.pixels.full_size(row["image"]), self.size, self.share)
        if row["mask"]:
            with Image.open(data / row["mask"]) as stored:
                mask = centre_mask(stored, self.size, self.share)
        return {"box": torch.tensor(box), "mask": torch.tensor(mask)}


class OnDevice:
    """The batches of `train_loader`, cut on the device, where the images lie."""

    def __init__(self, images: TrainImages, sampler: Epochs, device: torch.device) -> None:
        self.images, self.sampler = images, sampler
        self.labels = torch.tensor(images.labels, device=device)
        self.resident = Resident(images.pixels, images.names, device)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.sampler:
            rows = [row for _, row in batch]
            drawn = zip(*(self.images.drawn(*item) for item in batch), strict=True)
            views = [self.resident.views(rows, seen, self.images.size) for seen in drawn]
            yield torch.stack(views, dim=1), self.labels[sent(torch.tensor(rows), self.labels.device)]


Loader = DataLoader[Any] | OnDevice


def train_loader(
    images: TrainImages, batch_size: int, workers: int, device: torch.device
) -> tuple[Loader, Epochs]:
    """Batches of views (B, views, 3, size, size), uint8, and labels (B); set the sampler's epoch before
    each.

    On a GPU they are cut there, where that takes less than half of its memory and no policy has to see them
    first.
    """
    sampler = Epochs(len(images.labels), batch_size, images.seed)
    if device.type == "cuda" and images.crop.augment is None:
        # half of all its memory, not of what is free: a view's bits must not depend on who else is there
        needed = memory_to_cut(images.pixels, images.names, batch_size, images.size)
        if needed < torch.cuda.mem_get_info(device)[1] / 2:
            return OnDevice(images, sampler, device), sampler
        log.info("the images take half of the GPU's memory or more: they are cut on the CPU")
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
