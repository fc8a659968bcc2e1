"""Composes the demo's images: one glyph on coloured noise among fragments of other glyphs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def compose(
    glyphs: Tensor, size: int, clutter: int, generator: torch.Generator, noise: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Places each glyph, a third to a half of the image high, anywhere on its own background.

    glyphs: (B, 1, h, w), opacity in [0, 1], filling its canvas. Up to `clutter` pieces of the batch's
    other glyphs lie behind each; `noise` scales the background's contrast. Returns images
    (B, 3, size, size), uint8, and masks (B, size, size), bool, true on the glyph's strokes.
    """
    batch = len(glyphs)
    images = _noise(batch, size, noise, generator)
    count = torch.randint(0, clutter + 1, (batch,), generator=generator)
    for piece in range(clutter):
        others = glyphs[torch.randperm(batch, generator=generator)]
        shown = (piece < count).float().view(-1, 1, 1, 1)
        opacity = _place(_cut(others, generator), size, (1 / 5, 2 / 5), math.pi, generator) * shown
        images = torch.lerp(images, torch.rand(batch, 3, 1, 1, generator=generator), opacity)
    opacity = _place(glyphs, size, (1 / 3, 1 / 2), math.pi / 12, generator)
    images = torch.lerp(images, _contrasting(images, generator), opacity)
    return (images * 255).round().to(torch.uint8), opacity[:, 0] > 0.5


def _noise(batch: int, size: int, contrast: float, generator: torch.Generator) -> Tensor:
    """Coloured noise on four scales: (B, 3, size, size) in [0, 1]."""
    total = torch.rand(batch, 3, 1, 1, generator=generator).expand(-1, -1, size, size)
    for cells, strength in ((2, 0.20), (5, 0.15), (12, 0.10), (size // 2, 0.05)):
        coarse = torch.randn(batch, 3, cells, cells, generator=generator) * strength * contrast
        total = total + F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    return total.clamp(0, 1)


def _contrasting(images: Tensor, generator: torch.Generator) -> Tensor:
    """Of eight random colours the one farthest from each image's mean: (B, 3, 1, 1)."""
    colours = torch.rand(len(images), 8, 3, generator=generator)
    distance = (colours - images.mean((2, 3))[:, None]).norm(dim=2)
    return colours[torch.arange(len(images)), distance.argmax(1)][:, :, None, None]


def _cut(glyphs: Tensor, generator: torch.Generator) -> Tensor:
    """Keeps what lies beyond a random line through each glyph: a fragment of its strokes."""
    batch, _, height, width = glyphs.shape
    angle = torch.rand(batch, 1, 1, generator=generator) * 2 * math.pi
    ys = torch.linspace(-1, 1, height).view(1, -1, 1)
    xs = torch.linspace(-1, 1, width).view(1, 1, -1)
    return glyphs * (xs * angle.cos() + ys * angle.sin() > 0.1).unsqueeze(1)


def _place(
    glyphs: Tensor, size: int, scale: tuple[float, float], turn: float, generator: torch.Generator
) -> Tensor:
    """Warps each glyph to a random size (a share of the image), angle (radians) and place inside."""
    batch = len(glyphs)
    share = scale[0] + (scale[1] - scale[0]) * torch.rand(batch, generator=generator)
    angle = (torch.rand(batch, generator=generator) * 2 - 1) * turn
    centre = (torch.rand(batch, 2, generator=generator) * 2 - 1) * (1 - share)[:, None]
    rotation = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    inverse = rotation / share.view(-1, 1, 1)
    theta = torch.cat([inverse, -inverse @ centre[:, :, None]], 2)
    grid = F.affine_grid(theta, [batch, 1, size, size], align_corners=False)
    return F.grid_sample(glyphs, grid, align_corners=False)
