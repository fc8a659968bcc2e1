"""Attention as a segmentation of every object in a set of images with masks.

In a mask 0 is background, 255 void, and any other value an object, or a class; a data set whose masks know
one object has the value 1 alone. Maps are scored as in `gta.segmentation`, for each object by itself: the
pixels of the others count as background, void pixels not at all.

DINO leaves resolution and void open; here the whole image is brought to a square (bicubic) and its mask
likewise (nearest neighbour), and scores are taken at that resolution: ours.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from gta.attention import Layout, LogitRecorder, layout_of, record_logits
from gta.errors import InputError
from gta.metrics import VOID, attention_map
from gta.models import Card, normalise
from gta.params.segment import Segment
from gta.precision import autocast
from gta.protocols import ALL_VOID, NO_OBJECT
from gta.segmentation import jaccard, kept
from gta.views import read_rgb


class WholeImages(Dataset[dict[str, Tensor]]):
    """row -> `image` (3, size, size) and `mask` (size, size), both uint8, of the whole image."""

    def __init__(self, folder: Path, rows: pd.DataFrame, size: int) -> None:
        self.folder, self.size = folder, (size, size)
        self.images, self.masks, self.halves = (list(rows[name]) for name in ("image", "mask", "half"))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        image = read_rgb(self.folder / self.images[number]).resize(self.size, Image.Resampling.BICUBIC)
        with Image.open(self.folder / self.masks[number]) as stored:
            mask = np.asarray(stored.resize(self.size, Image.Resampling.NEAREST))
        return {"image": torch.tensor(np.asarray(image).transpose(2, 0, 1)), "mask": torch.tensor(mask)}


def draw(index: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """At most `count` test images with masks, in an order drawn by `seed`; fewer are the first of more.

    `half` is 0 and 1 in turn. Raises InputError where there is no such image.
    """
    known = index[(index["split"] == "test") & (index["mask"] != "")].sort_values("image")
    if known.empty:
        raise InputError("expected test images with masks, found none")
    order = np.random.default_rng(seed).permutation(len(known))[:count]
    return known.iloc[order].assign(half=np.arange(len(order)) % 2)


class Segmented(NamedTuple):
    """What `segment` finds; the first two by the model's name."""

    rows: dict[str, pd.DataFrame]
    """A row an image x object: image, half, object; Jaccard index of the heads' mean as `jaccard`, of each
    head as `jaccard_head<n>`. An image without objects has one row, its `object` NO_OBJECT or ALL_VOID."""
    patches: dict[str, Any]
    """(images, rows, columns), bool: for the first images with an object, the segmentation by the head that
    is best on the largest of its objects."""
    views: dict[str, Any]
    """Of those images: `image` (images, 3, size, size) and `mask` (images, size, size), uint8."""


@torch.no_grad()
def segment(
    models: dict[str, nn.Module],
    card: Card,
    images: WholeImages,
    device: torch.device,
    settings: Segment,
) -> Segmented:
    """Segments the images by each model's [CLS] attention in its last block.

    All models see the same views, which are read once.
    """
    loader = DataLoader(images, settings.batch_size, num_workers=settings.workers)
    places = zip(images.images, images.halves, strict=True)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
    patches: dict[str, list[np.ndarray]] = {name: [] for name in models}
    views: dict[str, list[np.ndarray]] = {"image": [], "mask": []}
    with ExitStack() as contexts:
        recorders = {
            name: contexts.enter_context(record_logits(model, [len(layout_of(model).attentions) - 1]))
            for name, model in models.items()
        }
        for batch in tqdm(loader, "segment", unit="batch", disable=None, leave=False):
            normal = normalise(batch["image"].to(device), card)
            known = [(next(places), regions_of(mask)) for mask in batch["mask"]]
            free = settings.pictures - len(views["image"])
            pictured = [number for number, (_, objects) in enumerate(known) if any_in(objects)][:free]
            for name, parts in views.items():
                parts += list(batch[name][pictured].numpy())
            for name, model in models.items():
                with autocast(settings.precision, device):
                    model(normal)
                each = kept(all_maps(recorders[name], layout_of(model)), settings.keep).cpu()
                for number, ((image, half), objects) in enumerate(known):
                    scores = {value: jaccard(each[[number]], of[None])[0] for value, of in objects.items()}
                    for value, score in scores.items():
                        place = {"image": image, "half": half, "object": value}
                        rows[name].append(place | named(score))
                    if number in pictured:
                        head = int(scores[largest(objects)][1:].argmax())
                        patches[name].append(each[number, 1 + head].numpy())
    return Segmented(
        {name: pd.DataFrame(parts) for name, parts in rows.items()},
        {name: np.array(parts) for name, parts in patches.items()},
        {name: np.array(parts) for name, parts in views.items()},
    )


Regions = dict[int, UInt8[Tensor, "height width"]]
"""Object -> 1 inside, 0 outside, VOID where nothing is known."""


def regions_of(mask: UInt8[Tensor, "height width"]) -> Regions:
    """A mask's objects; where it has none, one region without any under NO_OBJECT or ALL_VOID."""
    values = sorted(set(mask.flatten().tolist()) - {0, VOID})
    values = values or [NO_OBJECT if (mask == 0).any() else ALL_VOID]
    void = mask == VOID
    return {value: ((mask == value) & (mask > 0)).byte().masked_fill(void, VOID) for value in values}


def any_in(objects: Regions) -> bool:
    """Whether there is an object."""
    return not objects.keys() & {NO_OBJECT, ALL_VOID}


def largest(objects: Regions) -> int:
    """The object with the most pixels, the lowest of equals."""
    return max(objects, key=lambda value: int((objects[value] == 1).sum()))


def all_maps(recorder: LogitRecorder, layout: Layout) -> Float[Tensor, "batch maps rows columns"]:
    """Attention to the patches, brought to sum 1: the heads' mean, then each head."""
    row = recorder.stacked()[0]
    parts = [row, *row[:, :, None].unbind(1)]
    return torch.stack([attention_map(part, layout.prefix, "mean", layout.grid) for part in parts], 1)


def named(scores: Float[Tensor, " maps"]) -> dict[str, float]:
    """Scores of `all_maps` by column."""
    together, *heads = scores.tolist()
    return {"jaccard": together} | {f"jaccard_head{number}": score for number, score in enumerate(heads)}
