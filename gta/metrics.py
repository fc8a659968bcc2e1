"""Measures of predictions, and of how much attention lies on the object."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

VOID = 255
"""A pixel of which nothing is known; 1 is the object, 0 is not."""


def per_image(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> dict[str, np.ndarray]:
    """Logits and labels -> arrays (B): label, predicted, confidence, nll, in_top5."""
    logits = logits.double()
    confidence, predicted = logits.softmax(1).max(1)
    top5 = logits.topk(min(5, logits.shape[1]), dim=1).indices
    values = {
        "label": labels,
        "predicted": predicted,
        "confidence": confidence,
        "nll": F.cross_entropy(logits, labels, reduction="none"),
        "in_top5": (top5 == labels[:, None]).any(1),
    }
    return {name: value.cpu().numpy() for name, value in values.items()}


def accuracy_measures(images: pd.DataFrame, bins: int) -> dict[str, float]:
    """Rows of `per_image` -> top1, top5, mean_class, ece in [0, 1], and nll in nats.

    mean_class: mean over the classes that occur of the share of their images named rightly. ece: expected
    calibration error over `bins` bins of equal width (Guo et al., 2017, arXiv 1706.04599).
    """
    right = (images["predicted"] == images["label"]).astype(float)
    return {
        "top1": float(right.mean()),
        "top5": float(images["in_top5"].mean()),
        "mean_class": float(right.groupby(images["label"]).mean().mean()),
        "nll": float(images["nll"].mean()),
        "ece": calibration_error(images["confidence"].to_numpy(), right.to_numpy(), bins),
    }


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Mean over images of |accuracy - confidence| of the image's bin, in [0, 1]."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(which, confidence - right, bins)
    return float(np.abs(gaps).sum() / len(confidence))


def attention_map(
    row: Float[Tensor, "batch heads tokens"], prefix: int, heads: str, grid: tuple[int, int]
) -> Float[Tensor, "batch rows columns"]:
    """Logits of the [CLS] row -> attention over the patches.

    Softmax over all tokens, the heads' `mean` or `max`, then the patches' share of it brought to sum 1.
    """
    attention = row.float().softmax(-1)[..., prefix:]
    merged = attention.mean(1) if heads == "mean" else attention.amax(1)
    return (merged / merged.sum(-1, keepdim=True)).view(-1, *grid)


def in_patches(
    region: UInt8[Tensor, "batch height width"], grid: tuple[int, int]
) -> tuple[Float[Tensor, "batch rows columns"], Float[Tensor, "batch rows columns"]]:
    """The share of each patch that the object covers, and the share of which anything is known."""
    return (
        F.adaptive_avg_pool2d((region == 1).float(), grid),
        F.adaptive_avg_pool2d((region != VOID).float(), grid),
    )


def on_object(
    attention: Float[Tensor, "batch rows columns"], region: UInt8[Tensor, "batch height width"]
) -> dict[str, np.ndarray]:
    """How much of the attention lies on the object, an array (B) each.

    region: 0 background, 1 object, 255 void, which counts on neither side. `mass`: share
    of the attention, spread evenly over each patch, that lies on the object; `share`: the object's share
    of the view, which a model that looks anywhere reaches; `hit`: whether the middle of the patch with the
    most attention is on the object. NaN where the view shows no object or nothing else is known.
    """
    rows, columns = attention.shape[1:]
    seen, known = in_patches(region, (rows, columns))
    usable = seen.sum((1, 2)) > 0
    mass = (attention * seen).sum((1, 2)) / (attention * known).sum((1, 2))
    share = seen.sum((1, 2)) / known.sum((1, 2))
    best = attention.flatten(1).argmax(1)
    y = ((best // columns).double() + 0.5) * region.shape[1] / rows
    x = ((best % columns).double() + 0.5) * region.shape[2] / columns
    hit = (region[torch.arange(len(region)), y.long(), x.long()] == 1).float()
    missing = torch.full_like(mass, float("nan"))
    values = {"mass": mass, "share": share, "hit": hit}
    return {name: torch.where(usable, value, missing).cpu().numpy() for name, value in values.items()}
