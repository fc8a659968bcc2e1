"""How figures look, and how a grid of panels becomes files: the same panels give the same bytes.

Colours are Okabe and Ito's, safe for the colour-blind; dashes and markers differ too, for print.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any, Literal

import matplotlib.style
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gta.params.aggregate import Aggregate

Draw = Callable[[Axes], None]
"""Draws one panel."""

METADATA: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
"""Format -> what it must not contain, as it differs between runs or versions."""
RC: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.handlelength": 3,
    "legend.frameon": False,
    "svg.hashsalt": "gta",
}
BASELINE: dict[str, Any] = {"color": "#D55E00", "linestyle": "--"}
SOURCE: dict[str, Any] = {"color": "#009E73", "linestyle": ":", "linewidth": 1.6}
GTA: dict[str, Any] = {"color": "#0072B2", "marker": "o"}
BAND: dict[str, Any] = {"alpha": 0.18, "linewidth": 0}

styled = matplotlib.style.context(["default", RC])
"""Decorates what makes artists: they take their settings from here, never from the user's matplotlibrc."""


def render(
    panels: dict[str, Draw],
    columns: int,
    sharey: Literal["row", "none"],
    labels: tuple[str, str],
    legend: dict[str, Artist],
    settings: Aggregate,
    nothing: str = "no data set of the grid knows where its objects are",
) -> dict[str, bytes]:
    """Format -> file.

    panels: title -> what draws it, row by row; labels: of x and of y; nothing: what is said without panels.
    """
    columns = max(columns, 1)
    rows = max(math.ceil(len(panels) / columns), 1)
    width = settings.width * {1: 1 / 2, 2: 2 / 3}.get(columns, 1)
    entries = [0.58 + 0.06 * len(name) for name in legend]  # about as many inches
    across = len(entries) if sum(entries) < width - 0.1 else max(int(width / max(entries)), 1)
    height = rows * settings.height + 0.2 * math.ceil(len(legend) / max(across, 1)) + 0.4
    figure = Figure(figsize=(width, height), dpi=settings.dpi, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes, (title, draw) in zip(grid, panels.items(), strict=False):
        axes.set_title(title)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        draw(axes)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if not panels:
        figure.text(0.5, 0.5, nothing, ha="center")
    figure.supxlabel(labels[0], fontsize=8)
    figure.supylabel(labels[1], fontsize=8)
    figure.legend(legend.values(), legend.keys(), loc="outside upper center", ncols=max(across, 1))
    figure.draw_without_rendering()  # after it, places and sizes are known
    for axes in grid:
        thin_out(axes, 0.05 * settings.dpi)
    return {name: save(figure, name) for name in METADATA}


def save(figure: Figure, name: str) -> bytes:
    """The figure as a file of the format `name`: the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=name, metadata=METADATA[name])
    return buffer.getvalue()


def line(axes: Axes, x: pd.Series, mean: pd.Series, std: pd.Series, style: dict[str, Any]) -> None:
    """Means, and a band of ± std around them."""
    axes.plot(x, mean, **style)
    axes.fill_between(x, mean - std, mean + std, color=style["color"], **BAND)


def level(axes: Axes, mean: float, std: float, style: dict[str, Any]) -> None:
    """A line across the panel. Nothing where there is no mean."""
    if not math.isnan(mean):
        axes.axhline(mean, **style)
    if not math.isnan(std):
        axes.axhspan(mean - std, mean + std, color=style["color"], **BAND)


def legend_of(lines: dict[str, dict[str, Any]], seeds: pd.Series) -> dict[str, Artist]:
    """What the lines are, and the bands where there is more than one seed."""
    legend: dict[str, Artist] = {name: Line2D([], [], **style) for name, style in lines.items()}
    counts = sorted({int(count) for count in seeds} - {1})
    if counts:
        legend[f"± std, {' or '.join(map(str, counts))} seeds"] = Patch(color="black", **BAND)
    return legend


def ticks(axes: Axes, labels: dict[float, str]) -> None:
    """A labelled tick at every place, and nowhere else."""
    low, high = min(labels, default=0), max(labels, default=0)
    margin = 0.08 * (high - low) or 1
    axes.set_xlim(low - margin, high + margin)
    axes.set_xticks(sorted(labels), [labels[place] for place in sorted(labels)])


def thin_out(axes: Axes, gap: float) -> None:
    """Hides labels of x that would come nearer than `gap` pixels to the last one."""
    free = -math.inf
    for label in axes.get_xticklabels():
        box = label.get_window_extent()
        label.set_visible(box.x0 >= free)
        free = box.x1 + gap if label.get_visible() else free
