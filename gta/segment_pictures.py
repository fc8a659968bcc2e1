"""Segmentations by attention as a figure: rows of images, columns of models, as in the paper's Figure 3."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from gta.choice import Cell
from gta.drawing import save, styled
from gta.params.aggregate import Aggregate
from gta.protocols import ALL_VOID
from gta.segment_tables import FROZEN

OBJECTS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#D55E00")
"""Okabe and Ito's colours, for the objects of a mask in turn."""
VOID, FOUND, OUTLINE = "white", "#E69F00", "#56B4E9"


@styled
def draw_segments(
    folder: Path, dataset: str, cells: list[Cell], seed: int, settings: Aggregate
) -> dict[str, bytes]:
    """Format -> file: images, their masks (void in white), and the patches that the source and each cell's
    `seed` keep, by the head that is best on an image's largest object; all objects are outlined.

    folder: of one set of images; dataset: on which the cells were trained. Nothing where no images were
    kept, or there is no cell.
    """
    with np.load(folder / FROZEN / "views.npz") as stored:
        images, masks = stored["image"], stored["mask"]
    if not len(images) or not cells:
        return {}
    columns = {"frozen source": _patches(folder / FROZEN, "source")}
    for cell in cells:
        place = folder / dataset / str(cell.fraction) / cell.method
        columns[f"{cell.title}, {cell.fraction} %"] = _patches(place, str(seed))
    titles = ["image", "ground truth", *columns]
    side = settings.width / len(titles)
    height = len(images) * side + 0.25
    figure = Figure(figsize=(settings.width, height), dpi=settings.dpi, layout="constrained")
    grid = figure.subplots(len(images), len(titles), squeeze=False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=7)
    for number, (first, second, *others) in enumerate(grid):
        view, mask = images[number].transpose(1, 2, 0), masks[number]
        first.imshow(view)
        _over(second, view, coloured(mask))
        for axes, patches in zip(others, columns.values(), strict=True):
            _over(axes, view, patches[number][..., None] * np.array(to_rgba(FOUND, 0.6)))
            axes.contour((mask > 0) & (mask != ALL_VOID), levels=[0.5], colors=OUTLINE, linewidths=0.8)
        for axes in grid[number]:
            axes.set_axis_off()
    return {name: save(figure, name) for name in ("png", "svg")}


def coloured(mask: np.ndarray) -> np.ndarray:
    """A mask (height, width) -> colours (height, width, 4), transparent on the background."""
    objects = [to_rgba(OBJECTS[number % len(OBJECTS)], 0.8) for number in range(254)]
    colours: np.ndarray = np.array([(0, 0, 0, 0), *objects, to_rgba(VOID)])[mask]
    return colours


def _patches(folder: Path, model: str) -> np.ndarray:
    with np.load(folder / "patches.npz") as stored:
        patches: np.ndarray = stored[model]
    return patches


def _over(axes: Axes, view: np.ndarray, layer: np.ndarray) -> None:
    """Colours over the image's grey values, each as large as the whole image."""
    height, width = view.shape[:2]
    axes.imshow(view.mean(2), cmap="gray", vmin=0, vmax=255)
    axes.imshow(layer, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
