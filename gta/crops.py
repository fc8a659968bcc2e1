"""Views cut on the device: a list's decoded images lie there, and each step crops, resizes and flips a batch.

The same boxes and the same bicubic filter as Pillow's in `gta.views`: what differs is rounding, by a level or
two of 255 (tests/test_crops.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gta.pixels import Pixels
from gta.views import View

A = -0.5
"""Of the bicubic kernel (Keys, 1981), as Pillow has it."""


class Resident:
    """The images `names`, uint8, on `device`."""

    def __init__(self, pixels: Pixels, names: Sequence[str], device: torch.device) -> None:
        self.images = [torch.tensor(pixels[name], device=device) for name in names]

    def views(self, rows: Sequence[int], seen: Sequence[View], size: int) -> Tensor:
        """Views of the images in `rows`: (B, 3, size, size), uint8."""
        images = [self.images[row] for row in rows]
        device = images[0].device
        height, width = (max(image.shape[side] for image in images) for side in (0, 1))
        padded = torch.zeros(len(images), height, width, 3, dtype=torch.uint8, device=device)
        for place, image in zip(padded, images, strict=True):
            place[: image.shape[0], : image.shape[1]] = image
        numbers = [(*view.box, view.flip, *image.shape[:2]) for view, image in zip(seen, images, strict=True)]
        x0, y0, x1, y1, flip, heights, widths = torch.tensor(
            numbers, dtype=torch.float64, device=device
        ).unbind(1)
        across = bicubic(x0, x1, widths, size, width)
        across = torch.where(flip[:, None, None] > 0, across.flip(1), across)
        down = bicubic(y0, y1, heights, size, height)
        narrow = levels(padded.permute(0, 3, 1, 2).float() @ across.mT[:, None])
        return levels(down[:, None] @ narrow).to(torch.uint8)


def bicubic(start: Tensor, end: Tensor, length: Tensor, size: int, longest: int) -> Tensor:
    """Weights (B, size, longest), float32, that resize start .. end of a side of `length` pixels to `size`.

    start, end, length: (B), float64. Where the side is made shorter the filter is as much wider.
    """
    scale = (end - start)[:, None, None] / size
    stretch = scale.clamp_min(1)
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    pixel = torch.arange(longest, device=start.device) + 0.5
    inside = pixel < length[:, None, None]
    distance = ((pixel - centre) / stretch).abs()
    near = ((A + 2) * distance - (A + 3)) * distance.square() + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * A
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0)) * inside
    return (weights / weights.sum(-1, keepdim=True)).float()


def levels(values: Tensor) -> Tensor:
    """Rounded to whole levels, 0 to 255, as they are stored."""
    return (values + 0.5).floor().clamp(0, 255)
