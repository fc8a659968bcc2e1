"""Attention pictures: rows of images, columns of models, as in the paper's Figure 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gta.choice import Cell
from gta.drawing import save, styled
from gta.params.aggregate import Aggregate


@styled
def draw_pictures(runs: Path, cells: list[Cell], seed: int, settings: Aggregate) -> dict[str, bytes]:
    """Format -> file: the images that `evaluate` has kept, the source's attention, and that of each cell's
    `seed`; the object is outlined where it is known. Nothing where no images were kept.

    Each map is shown from 0 to its own largest value.
    """
    places = [cell.folder(runs) for cell in cells]
    if not places or not (places[0] / "views.npz").exists():
        return {}
    with np.load(places[0] / "views.npz") as stored:
        views = {name: stored[name] for name in stored.files}
    columns: list[tuple[str, Any]] = [("image", None)]
    for place, cell in zip(places, cells, strict=True):
        with np.load(place / "maps.npz") as stored:
            if len(columns) == 1:
                columns.append(("frozen source", stored["source"]))
            columns.append((f"{cell.title}, {cell.fraction} %", stored[str(seed)]))
    count = len(views["image"])
    side = settings.width / len(columns)
    figure = Figure(figsize=(settings.width, count * side + 0.25), dpi=settings.dpi, layout="constrained")
    grid = figure.subplots(count, len(columns), squeeze=False)
    for row in range(count):
        for column, (title, maps) in enumerate(columns):
            axes = grid[row][column]
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=7)
            _show(axes, views["image"][row], None if maps is None else maps[row])
            _outline(axes, views["mask"][row], views["box"][row])
    return {name: save(figure, name) for name in ("png", "svg")}


def _show(axes: Axes, image: np.ndarray, attention: np.ndarray | None) -> None:
    """The image, or its grey values below the map."""
    height, width = image.shape[1:]
    pixels = image.transpose(1, 2, 0)
    if attention is None:
        axes.imshow(pixels)
        return
    axes.imshow(pixels.mean(2), cmap="gray", vmin=0, vmax=255)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(attention, cmap="inferno", alpha=0.65, extent=extent, interpolation="nearest", vmin=0)


def _outline(axes: Axes, *regions: np.ndarray) -> None:
    """The edge of the first region that is known: 1 is the object."""
    for region in regions:
        if (region == 1).any():
            axes.contour(region == 1, levels=[0.5], colors="#56B4E9", linewidths=0.8)
            return
