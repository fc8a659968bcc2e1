"""Views cut on the device: a list's decoded images lie there, and each step crops, resizes and flips a batch.

The same boxes and the same bicubic filter as Pillow's in `gta.views`: what differs is rounding, by a level or
two of 255 (tests/test_crops.py), and more beside pure black or white, where the filter overshoots: Pillow
cuts that off after each side, the cheaper of which is first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from gta.pixels import Pixels
from gta.precision import sent
from gta.views import View

A = -0.5
"""Of the bicubic kernel (Keys, 1981), as Pillow has it."""


PER_PIXEL = 60
"""Bytes that cutting takes for each pixel of a batch's images, and of what lies between them and their views:
35 and 25, about."""


def memory_to_cut(pixels: Pixels, names: Sequence[str], batch_size: int) -> int:
    """Bytes of the device, about, that the images take, and the cutting of the largest batch of them."""
    heights, widths = zip(*(pixels[name].shape[:2] for name in names), strict=True)
    largest: int = max(heights) * max(widths)
    return pixels.nbytes(names) + batch_size * largest * PER_PIXEL


class Resident:
    """The images `names`, uint8, on `device`, one after the other."""

    def __init__(self, pixels: Pixels, names: Sequence[str], device: torch.device) -> None:
        images = [pixels[name] for name in names]
        self.sizes = [image.shape[:2] for image in images]
        counts = [height * width for height, width in self.sizes]
        self.starts = [0, *accumulate(counts)]
        self.pixels = torch.empty(sum(counts), 3, dtype=torch.uint8, device=device)
        for image, start, count in zip(images, self.starts, counts, strict=False):
            self.pixels[start : start + count] = torch.tensor(image, device=device).flatten(0, 1)

    def views(self, rows: Sequence[int], seen: Sequence[View], size: int) -> Tensor:
        """Views of the images in `rows`: (B, 3, size, size), uint8. Nothing here waits for the device."""
        device, sizes = self.pixels.device, [self.sizes[row] for row in rows]
        numbers = [
            (*view.box, view.flip, *self.sizes[row], self.starts[row])
            for row, view in zip(rows, seen, strict=True)
        ]
        table = sent(torch.tensor(numbers, dtype=torch.float64), device)
        x0, y0, x1, y1, flip = table[:, :5].unbind(1)
        heights, widths, starts = table[:, 5:].long().unbind(1)
        down, across = (torch.arange(max(side), device=device) for side in zip(*sizes, strict=True))
        lines = starts[:, None] + _inside(down, heights) * widths[:, None]
        # each image to the largest one's sides, by its own edges
        padded = self.pixels[lines[:, :, None] + _inside(across, widths)[:, None]]
        left, right = torch.where(flip > 0, x1, x0), torch.where(flip > 0, x0, x1)
        to_width = bicubic(left, right, widths, size, len(across))
        to_height = bicubic(y0, y1, heights, size, len(down))
        narrow = levels(padded.permute(0, 3, 1, 2).float() @ to_width.mT[:, None])
        return levels(to_height[:, None] @ narrow).to(torch.uint8)


def _inside(pixel: Tensor, length: Tensor) -> Tensor:
    """Pixels (P) of sides of `length` (B) pixels, the last for those beyond: (B, P)."""
    return torch.minimum(pixel, length[:, None] - 1)


def bicubic(start: Tensor, end: Tensor, length: Tensor, size: int, longest: int) -> Tensor:
    """Weights (B, size, longest), float32, that resize start .. end of a side of `length` pixels to `size`.

    start, end: (B), float64, an end before its start to turn the side round; length: (B). Where the side is
    made shorter the filter is as much wider.
    """
    scale = (end - start)[:, None, None] / size
    stretch = scale.abs().clamp_min(1)
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    pixel = torch.arange(longest, device=start.device) + 0.5
    inside = pixel < length[:, None, None]
    distance = ((pixel - centre.float()) / stretch.float()).abs()  # what is large is float32
    near = ((A + 2) * distance - (A + 3)) * distance.square() + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * A
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0)) * inside
    return weights / weights.sum(-1, keepdim=True)


def levels(values: Tensor) -> Tensor:
    """Rounded to whole levels, 0 to 255, as they are stored."""
    return (values + 0.5).floor_().clamp_(0, 255)
