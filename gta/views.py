"""What the model sees of an image: a random crop in training, the centre in evaluation, object included.

Pillow reads, crops and resizes; this module only decides where. Every random choice comes from a
generator that the caller seeds by image and epoch.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from gta.errors import InputError

if TYPE_CHECKING:
    from gta.params.finetune import Finetune

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


def train_view(image: Image.Image, size: int, crop: Crop, seed: tuple[int, ...]) -> np.ndarray:
    """A random view: (3, size, size), uint8. The same `seed` gives the same view."""
    rng = np.random.default_rng(seed)
    box = random_box(image.width, image.height, crop, rng)
    view = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    if rng.random() < crop.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if crop.augment is not None:
        # timm's policies draw from the two global generators
        random.seed(int(rng.integers(2**31)))
        np.random.seed(int(rng.integers(2**31)))
        view = crop.augment(view)
    return np.asarray(view).transpose(2, 0, 1)


def centre_box(width: int, height: int, share: float) -> Box:
    """The central square whose side is `share` of the shorter side."""
    side = min(width, height) * share
    x, y = (width - side) / 2, (height - side) / 2
    return x, y, x + side, y + side


def centre_view(image: Image.Image, size: int, share: float) -> np.ndarray:
    """Resize and centre crop in one step: (3, size, size), uint8."""
    box = centre_box(image.width, image.height, share)
    view = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(view).transpose(2, 0, 1)


def centre_mask(mask: Image.Image, size: int, share: float) -> np.ndarray:
    """A mask of the index under the same crop: (size, size), uint8, its coding kept."""
    box = centre_box(mask.width, mask.height, share)
    return np.asarray(mask.resize((size, size), Image.Resampling.NEAREST, box=box))


def box_mask(box: Box, width: int, height: int, size: int, share: float) -> np.ndarray:
    """A box of the index under the same crop, drawn as a mask: (size, size), uint8, 1 inside."""
    left, top, right, _ = centre_box(width, height, share)
    scale = size / (right - left)
    x0, x1 = (min(max(round((x - left) * scale), 0), size) for x in (box[0], box[2]))
    y0, y1 = (min(max(round((y - top) * scale), 0), size) for y in (box[1], box[3]))
    mask = np.zeros((size, size), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask
