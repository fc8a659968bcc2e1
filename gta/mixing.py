"""Mixes each image of a batch with its mirror in the batch's order, and the labels with it.

Mixup: Zhang, Cisse, Dauphin, Lopez-Paz (2017), arXiv 1710.09412. CutMix: Yun, Han, Oh, Chun, Choe, Yoo
(2019), arXiv 1905.04899. TransMix: Chen, Sun, He, Torr, Yuille, Bai (2021), "TransMix: Attend to Mix for
Vision Transformers", arXiv 2111.09833:

    share of the pasted label = (area + attention) / 2

area: the pasted box's share of the image; attention: the box's share of the [CLS] token's attention to the
patches, in the last block of the model that is trained, on the mixed image, in the same forward pass, after
softmax, mean over heads, without gradient. That is the rule of its public code; its paper has the attention
alone. Every mixed batch is one of CutMix (there, by default, one in five is Mixup's). Registers and
distillation tokens are left out here (there, distilled models fail).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


class Mixed(NamedTuple):
    """A mixed batch."""

    images: Tensor
    """(B, 3, H, W)."""
    share: float
    """Of the mirrored image, by Mixup's ratio or by the pasted area."""
    box: tuple[int, int, int, int] | None
    """y0, y1, x0, x1 in pixels of what was pasted, ends exclusive; None for Mixup."""


def mix(
    images: Float[Tensor, "batch 3 height width"], kind: str, alpha: float, seed: tuple[int, ...]
) -> Mixed:
    """A mixed batch. alpha: of the Beta distribution of the ratio, > 0. The same seed mixes alike."""
    rng = np.random.default_rng(seed)
    ratio = rng.beta(alpha, alpha)
    if kind == "mixup":
        return Mixed(images.lerp(images.flip(0), 1 - ratio), 1 - ratio, None)
    height, width = images.shape[2:]
    box = random_box(height, width, math.sqrt(1 - ratio), rng)
    y0, y1, x0, x1 = box
    pasted = images.clone()
    pasted[:, :, y0:y1, x0:x1] = images.flip(0)[:, :, y0:y1, x0:x1]
    return Mixed(pasted, (y1 - y0) * (x1 - x0) / (height * width), box)


def random_box(height: int, width: int, side: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box of `side` times the image's sides around a uniform centre, cut at the image's border."""
    tall, wide = int(height * side), int(width * side)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    y0, y1 = (min(max(edge, 0), height) for edge in (y - tall // 2, y + tall // 2))
    x0, x1 = (min(max(edge, 0), width) for edge in (x - wide // 2, x + wide // 2))
    return y0, y1, x0, x1


def mixed_targets(
    labels: Int[Tensor, " batch"],
    mirrored: Int[Tensor, " batch"],
    share: Float[Tensor, ""] | Float[Tensor, " batch"],
    num_classes: int,
) -> Float[Tensor, "batch num_classes"]:
    """(1 - share) of each image's own class and `share` of its mirror's. mirrored: the mirrors' labels."""
    own, other = (F.one_hot(classes, num_classes).float() for classes in (labels, mirrored))
    part = share[:, None] if share.ndim else share
    return own * (1 - part) + other * part


def pasted_patches(mixed: Mixed, grid: tuple[int, int]) -> Float[Tensor, " patches"]:
    """1 for each patch whose first pixel was pasted, else 0. grid: rows and columns of patches."""
    assert mixed.box is not None  # only CutMix pastes
    y0, y1, x0, x1 = mixed.box
    mask = mixed.images.new_zeros((1, 1, *mixed.images.shape[2:]))
    mask[:, :, y0:y1, x0:x1] = 1
    return F.interpolate(mask, grid, mode="nearest").flatten()


def transmix_share(
    row: Float[Tensor, "batch heads tokens"],
    area: Float[Tensor, ""],
    pasted: Float[Tensor, " patches"],
    prefix: int,
) -> Float[Tensor, " batch"]:
    """TransMix's share of the pasted label. row: attention logits of [CLS]; area: the pasted box's share."""
    attention = row.detach().float().softmax(-1).mean(1)[:, prefix:]
    return (area + (attention * pasted).sum(1) / attention.sum(1)) / 2
