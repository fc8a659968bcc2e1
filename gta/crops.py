"""Views cut on the device: a list's decoded images lie there, and each step crops, resizes and flips a batch.

The same boxes and the same bicubic filter as Pillow's in `gta.views`, in float16, which has each of the 256
levels exactly and a GPU's fastest products. What differs is rounding, by one level in a tenth or so of a
photograph's values, seldom by two (tests/test_crops.py), and more by pure black or white, where the filter
overshoots: Pillow cuts that off after each side, the cheaper of which is first. Sums are as long as the
batch's largest view asks for: beside other images one value in a thousand at most is another by one level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from gta.pixels import Pixels
from gta.precision import sent
from gta.views import View, reached

A = -0.5
"""Of the bicubic kernel (Keys, 1981), as Pillow has it."""


def memory_to_cut(pixels: Pixels, names: Sequence[str], batch_size: int, size: int) -> int:
    """Bytes of the device, about, that the images take, and the most that cutting a batch's views takes."""
    heights, widths = zip(*(pixels[name].shape[:2] for name in names), strict=True)
    high, wide = whole_eights(max(heights)), whole_eights(max(widths))
    regions, narrow, views = 9 * high * wide, 6 * high * size, 9 * size * size  # as uint8 and float16
    weights = 10 * size * (high + wide)  # and the numbers of their taps
    largest: int = regions + narrow + views + weights
    return pixels.nbytes(names) + batch_size * largest


class Resident:
    """The images `names`, uint8, on `device`, one after the other."""

    def __init__(self, pixels: Pixels, names: Sequence[str], device: torch.device) -> None:
        images = [pixels[name] for name in names]
        self.sizes = [image.shape[:2] for image in images]
        counts = [height * width for height, width in self.sizes]
        self.starts = [0, *accumulate(counts)]
        beyond = whole_eights(max(width for _, width in self.sizes))  # the last line may be read on
        self.pixels = torch.zeros(sum(counts) + beyond, 3, dtype=torch.uint8, device=device)
        for image, start, count in zip(images, self.starts, counts, strict=False):
            self.pixels[start : start + count] = torch.tensor(image, device=device).flatten(0, 1)

    def views(self, rows: Sequence[int], seen: Sequence[View], size: int) -> Tensor:
        """Views of the images in `rows`: (B, 3, size, size), uint8. Nothing here waits for the device."""
        numbers, high, wide, stretch = [], 0, 0, 1.0
        for row, ((x0, y0, x1, y1), flip) in zip(rows, seen, strict=True):
            height, width = self.sizes[row]
            left, right = reached(x0, x1, size, width)
            top, bottom = reached(y0, y1, size, height)
            start = self.starts[row] + top * width + left
            across = (x1, x0, left, width) if flip else (x0, x1, left, width)
            numbers.append((*across, y0, y1, top, height, start))
            high, wide = max(high, bottom - top), max(wide, right - left)
            stretch = max(stretch, (x1 - x0) / size, (y1 - y0) / size)
        high, wide = whole_eights(high), whole_eights(wide)
        table = sent(torch.tensor(numbers, dtype=torch.float64), self.pixels.device)
        to_width = bicubic(table[:, :4], size, wide, stretch)
        to_height = bicubic(table[:, 4:8], size, high, stretch)
        regions = self._regions(table, high, wide)
        narrow = levels(regions.flatten(1, 2) @ to_width.mT).view(len(rows), high, 3 * size)
        views = levels(to_height @ narrow).view(len(rows), size, 3, size)
        return views.to(torch.uint8).transpose(1, 2)

    def _regions(self, table: Tensor, high: int, wide: int) -> Tensor:
        """What the filter reaches of each image: (B, high, 3, wide), float16. Beyond it lies whatever follows
        in memory, and below the image its last line, on which the filter puts no weight."""
        widths, tops, heights, starts = (table[:, column].long()[:, None] for column in (3, 6, 7, 8))
        down = torch.arange(high, device=table.device)
        lines = starts + torch.minimum(down, heights - 1 - tops) * widths
        windows = self.pixels.as_strided((len(self.pixels) - wide, 3 * wide), (3, 1))
        regions = windows[lines].view(len(table), high, wide, 3).transpose(2, 3)
        return regions.to(torch.float16, memory_format=torch.contiguous_format)


def bicubic(sides: Tensor, size: int, longest: int, stretch: float) -> Tensor:
    """Weights (B, size, longest), float16, that resize a part of a side to `size`.

    sides: (B, 4), float64: where the part starts and ends, an end before its start to turn it round; the
    pixel of the first weight; how many pixels the side has. Where a part is made shorter the filter is as
    much wider, `stretch` times at most.
    """
    start, end, first, length = sides[:, :, None, None].unbind(1)
    scale = (end - start) / size
    wider = scale.abs().clamp_min(1)
    pixel = torch.arange(longest, device=sides.device)
    centre = start - first + (torch.arange(size, device=sides.device)[:, None] + 0.5) * scale
    taps = min(int(4 * stretch) + 2, longest)
    lowest = (centre - 2 * wider).floor().long().clamp(0, longest - taps)
    taken = lowest + pixel[:taps]
    distance = ((taken + 0.5 - centre) / wider).abs()
    near = ((A + 2) * distance - (A + 3)) * distance.square() + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * A
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0)) * (taken < length - first)
    weights = F.pad((weights / weights.sum(-1, keepdim=True)).half(), (1, 1))  # nothing on either side
    return weights.gather(2, (pixel - (lowest - 1)).clamp_(0, taps + 1))


def whole_eights(count: int) -> int:
    """The next multiple of eight, in which a GPU's products of float16 want their sides."""
    return -(-count // 8) * 8


def levels(values: Tensor) -> Tensor:
    """Rounded to whole levels, 0 to 255, as they are stored; in place."""
    return values.round_().clamp_(0, 255)
