"""Attention as a segmentation: the patches that hold a share of it, scored against masks and boxes.

The rule is that of Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin (2021), "Emerging Properties in
Self-Supervised Vision Transformers", arXiv 2104.14294, and of its visualize_attention.py: of each map the
strongest patches are kept that hold `share` of its mass, 0.6 there; the patches are drawn at the image's
resolution, nearest neighbour; the Jaccard index |A and B| / |A or B| is taken with the object. Void pixels
are in neither A nor B.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from torch import Tensor

from gta.metrics import VOID


def kept(
    attention: Float[Tensor, "*batch rows columns"], share: float
) -> Bool[Tensor, "*batch rows columns"]:
    """The strongest patches of each map that hold `share`, in (0, 1], of its sum, the last one included."""
    flat = attention.flatten(-2)
    order = flat.argsort(stable=True, dim=-1)
    mass = flat.gather(-1, order).double().cumsum(-1)
    strong = mass > (1 - share) * mass[..., -1:]
    return torch.zeros_like(strong).scatter(-1, order, strong).view_as(attention)


def drawn(patches: Bool[Tensor, "*batch rows columns"], size: tuple[int, int]) -> Tensor:
    """Patches at `size` (height, width), nearest neighbour: (*batch, height, width)."""
    maps = patches.reshape(1, -1, *patches.shape[-2:]).to(torch.uint8)
    return F.interpolate(maps, size, mode="nearest").bool().view(*patches.shape[:-2], *size)


def jaccard(
    patches: Bool[Tensor, "batch heads rows columns"], region: UInt8[Tensor, "batch height width"]
) -> Float[Tensor, "batch heads"]:
    """The Jaccard index of each map with the region's object; NaN where there is no object."""
    truth = (region == 1)[:, None]
    known = (region != VOID)[:, None]
    found = drawn(patches, (region.shape[1], region.shape[2])) & known
    both, either = (found & truth).sum((2, 3)), (found | truth).sum((2, 3))
    missing = torch.full((), float("nan"), dtype=torch.float64, device=region.device)
    return torch.where(truth.any(3).any(2), both.double() / either, missing)


def box_iou(
    patches: Bool[Tensor, "batch rows columns"], region: UInt8[Tensor, "batch height width"]
) -> Float[Tensor, " batch"]:
    """Intersection over union of two boxes: around the largest connected group of patches (sides touching),
    and around the region's object; NaN where there is no object."""
    size = (region.shape[1], region.shape[2])
    pixels, truths = drawn(patches, size).cpu().numpy(), (region == 1).cpu().numpy()
    return torch.tensor([_iou(*pair) for pair in zip(pixels, truths, strict=True)], dtype=torch.float64)


def _iou(pixels: np.ndarray, truth: np.ndarray) -> float:
    if not truth.any():
        return float("nan")
    groups, _ = ndimage.label(pixels)
    largest = np.bincount(groups.ravel())[1:].argmax() + 1
    first, second = _box(groups == largest), _box(truth)
    shared = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    both = float(np.prod(shared.clip(0)))
    areas = [float(np.prod(box[2:] - box[:2])) for box in (first, second)]
    return both / (sum(areas) - both)


def _box(mask: np.ndarray) -> np.ndarray:
    """y0, x0, y1, x1, ends exclusive."""
    places = np.argwhere(mask)
    return np.concatenate([places.min(0), places.max(0) + 1])
