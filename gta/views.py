"""What the model sees of an image: a random crop in training, the centre in evaluation, object included.

Pillow reads and resizes; this module only decides where. Every random choice comes from a generator that is
seeded by image and epoch.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gta.errors import InputError

if TYPE_CHECKING:
    from gta.params.finetune import Finetune

Array = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""
UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises at damaged files, as 9,000 of them showed, and at those that would fill the memory."""


@dataclass(frozen=True)
class Crop:
    """RandomResizedCrop and flip: `scale` is (smallest, largest) share of the area, `ratio` of width to
    height, `flip` a probability; `augment` is a policy of timm's on PIL images, or None."""

    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float
    augment: Any = None


def crop_of(settings: Finetune) -> Crop:
    """The random views that the section describes; timm is imported only for its RandAugment.

    Raises InputError where timm does not understand the policy.
    """
    augment: Any = None
    if settings.rand_augment is not None:
        from timm.data.auto_augment import rand_augment_transform

        try:
            augment = rand_augment_transform(settings.rand_augment, {})
        except (AssertionError, ValueError, KeyError) as error:
            raise InputError(
                "params.yaml: finetune.rand_augment: expected a policy of timm's such as "
                f"'rand-m9-mstd0.5-inc1', got {settings.rand_augment!r}: {error or 'not understood'}"
            ) from None
    low, high = settings.crop_scale
    return Crop((low, high), (settings.crop_ratio[0], settings.crop_ratio[1]), settings.flip, augment)


def read_rgb(path: Path) -> Image.Image:
    """The image in RGB, whatever its format or mode. Raises InputError where it cannot be decoded.

    Of 16 bits a pixel the upper 8 are taken (Pillow's own conversion cuts off all above 255); transparency is
    let go.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):
                return Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)).convert(
                    "RGB"
                )
            if image.mode == "F":
                raise ValueError("expected 8 or 16 bits a pixel, got floating point")
            return image.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{path}: no such image; has `dvc repro download` run?") from None
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be decoded as an image: {' '.join(str(error).split())}") from None


def random_box(width: int, height: int, crop: Crop, rng: np.random.Generator) -> Box:
    """A box as torchvision's RandomResizedCrop draws it: area uniform, ratio log-uniform, ten tries, then
    the largest central box whose ratio is in range."""
    for _ in range(10):
        area = width * height * rng.uniform(*crop.scale)
        ratio = math.exp(rng.uniform(math.log(crop.ratio[0]), math.log(crop.ratio[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return x, y, x + w, y + h
    ratio = min(max(width / height, crop.ratio[0]), crop.ratio[1])
    w, h = (round(height * ratio), height) if width / height > ratio else (width, round(width / ratio))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


class View(NamedTuple):
    """What is to be seen of an image."""

    box: Box
    flip: bool


def draw(width: int, height: int, crop: Crop, rng: np.random.Generator) -> View:
    """A random view of an image of this size."""
    return View(random_box(width, height, crop, rng), bool(rng.random() < crop.flip))


def train_view(pixels: Array, size: int, crop: Crop, seed: tuple[int, ...]) -> Array:
    """A random view of (height, width, 3): (3, size, size). The same `seed` gives the same view."""
    rng = np.random.default_rng(seed)
    box, flip = draw(pixels.shape[1], pixels.shape[0], crop, rng)
    view = resized(pixels, box, size)
    if flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if crop.augment is not None:
        # timm's policies draw from the two global generators
        random.seed(int(rng.integers(2**31)))
        np.random.seed(int(rng.integers(2**31)))
        view = crop.augment(view)
    return np.asarray(view).transpose(2, 0, 1)


def resized(pixels: Array, box: Box, size: int) -> Image.Image:
    """The box of (height, width, 3) at size x size, bicubic; what the filter cannot reach is not copied."""
    x0, y0, x1, y1 = box
    left, right = reached(x0, x1, size, pixels.shape[1])
    top, bottom = reached(y0, y1, size, pixels.shape[0])
    image = Image.fromarray(pixels[top:bottom, left:right])
    inside = (x0 - left, y0 - top, x1 - left, y1 - top)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=inside)


def reached(start: float, end: float, size: int, length: int) -> tuple[int, int]:
    """The pixels of a side of `length` that a bicubic filter reads for start .. end at `size`."""
    support = 2 * max((end - start) / size, 1) + 1
    return max(0, math.floor(start - support)), min(length, math.ceil(end + support))


def centre_box(width: int, height: int, share: float) -> Box:
    """The central square whose side is `share` of the shorter side."""
    side = min(width, height) * share
    x, y = (width - side) / 2, (height - side) / 2
    return x, y, x + side, y + side


def centre_view(pixels: Array, size: int, share: float) -> Array:
    """Resize and centre crop of (height, width, 3) in one step: (3, size, size)."""
    box = centre_box(pixels.shape[1], pixels.shape[0], share)
    return np.asarray(resized(pixels, box, size)).transpose(2, 0, 1)


def centre_mask(mask: Image.Image, size: int, share: float) -> Array:
    """A mask of the index under the same crop: (size, size), its coding kept."""
    box = centre_box(mask.width, mask.height, share)
    return np.asarray(mask.resize((size, size), Image.Resampling.NEAREST, box=box))


def box_mask(box: Box, width: int, height: int, size: int, share: float) -> Array:
    """A box of the index under the same crop, drawn as a mask: (size, size), 1 inside.

    width, height: of the image in whose pixels the box is.
    """
    left, top, right, _ = centre_box(width, height, share)
    scale = size / (right - left)
    x0, x1 = (min(max(round((x - left) * scale), 0), size) for x in (box[0], box[2]))
    y0, y1 = (min(max(round((y - top) * scale), 0), size) for y in (box[1], box[3]))
    mask = np.zeros((size, size), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask
