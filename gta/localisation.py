"""Models side by side on a list of images: what they predict, and how much each looks at the object."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from gta.attention import LogitRecorder, layout_of, record_logits
from gta.batches import REGIONS
from gta.heads import head_table, per_head
from gta.metrics import attention_map, on_object, per_image
from gta.models import Card, normalise
from gta.precision import autocast
from gta.segmentation import box_iou, jaccard, kept

SOURCE = "source"
"""The name among models of the one that is only looked at: its classes are others, or none."""


class Seen(NamedTuple):
    """Of one model, over a list of images."""

    images: pd.DataFrame
    """A row an image: predictions, and `<measure>_<region>` of `localised`."""
    heads: pd.DataFrame
    """A row a layer and head, of `heads.head_table`."""


@contextmanager
def recording(models: dict[str, nn.Module]) -> Iterator[dict[str, LogitRecorder]]:
    """A recorder of every block's [CLS] row for each model."""
    with ExitStack() as contexts:
        yield {
            name: contexts.enter_context(record_logits(model, range(len(layout_of(model).attentions))))
            for name, model in models.items()
        }


@torch.no_grad()
def maps(
    models: dict[str, nn.Module],
    card: Card,
    images: UInt8[Tensor, "batch 3 height width"],
    device: torch.device,
    precision: Literal["fp32", "bf16", "auto"],
    layer: int,
) -> dict[str, np.ndarray]:
    """Each model's [CLS] attention to the patches of a few images: (B, rows, columns), float16, the largest
    over heads, as the paper's pictures show it."""
    found = {}
    with recording(models) as recorders:
        for name, model in models.items():
            layout = layout_of(model)
            with autocast(precision, device):
                model(normalise(images.to(device), card))
            merged = attention_map(recorders[name].stacked()[layer], layout.prefix, "max", layout.grid)
            found[name] = merged.cpu().numpy().astype(np.float16)
    return found


@torch.no_grad()
def look(
    models: dict[str, nn.Module],
    card: Card,
    loader: DataLoader[Any],
    device: torch.device,
    precision: Literal["fp32", "bf16", "auto"],
    layer: int,
    heads: Literal["mean", "max"],
    keep: float,
) -> dict[str, Seen]:
    """What each model sees. They are given the same views, which are read once; the first is the one named
    SOURCE, of which there are no predictions.

    layer: block number, negative ones from the end, of what is measured of each image.
    """
    layouts = {name: layout_of(model) for name, model in models.items()}
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in models}
    of_heads: dict[str, list[dict[str, Tensor]]] = {name: [] for name in models}
    with recording(models) as recorders:
        for batch in tqdm(loader, "evaluate", unit="batch", disable=None, leave=False):
            images, labels = normalise(batch["image"].to(device), card), batch["label"].to(device)
            regions = {region: batch[region].to(device) for region in REGIONS}
            for name, model in models.items():
                with autocast(precision, device):
                    logits = model(images)
                rows = recorders[name].stacked()
                row, layout = rows[layer], layouts[name]
                of_heads[name].append(per_head(rows, recorders[SOURCE].stacked(), layout.grid, regions))
                attention = attention_map(row, layout.prefix, heads, layout.grid)
                each = row.softmax(-1)[..., layout.prefix :]
                columns = {} if name == SOURCE else per_image(logits, labels)
                for region, mask in regions.items():
                    measures = localised(attention, each.view(*row.shape[:2], *layout.grid), mask, keep)
                    columns |= {f"{measure}_{region}": values for measure, values in measures.items()}
                parts[name].append(pd.DataFrame(columns))
    return {
        name: Seen(pd.concat(frames, ignore_index=True), head_table(of_heads[name]))
        for name, frames in parts.items()
    }


def localised(
    attention: Float[Tensor, "batch rows columns"],
    each: Float[Tensor, "batch heads rows columns"],
    region: UInt8[Tensor, "batch height width"],
    keep: float,
) -> dict[str, np.ndarray]:
    """Arrays (B): mass, share and hit of `metrics.on_object`; `iou` of the box around the attention, and
    `corloc`, whether it is at least 0.5; `jaccard` of the attention as a segmentation, `jaccard_best` of the
    head that is the best on this very image (DINO's protocol), and `jaccard_head<n>` of each.

    attention: the heads as one map; each: every head's.
    """
    patches, by_head = kept(attention, keep), jaccard(kept(each, keep), region)
    iou = box_iou(patches, region)
    values = {
        "iou": iou,
        "corloc": (iou >= 0.5).double().where(~iou.isnan(), iou),
        "jaccard": jaccard(patches[:, None], region)[:, 0],
        "jaccard_best": by_head.amax(1),
        **{f"jaccard_head{number}": column for number, column in enumerate(by_head.unbind(1))},
    }
    return on_object(attention, region) | {name: value.cpu().numpy() for name, value in values.items()}
