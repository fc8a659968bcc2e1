"""Figures of a finished grid: methods against the baseline, accuracy against data and GTA's weight.

Colours are Okabe and Ito's, safe for the colour-blind; dashes and markers differ too, for print. Bands are
mean ± sample standard deviation over seeds. The same tables give the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from itertools import cycle
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
from gta.tables import SURE

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
RING: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 8, "mfc": "none", "mec": "black"}
OTHERS: list[dict[str, Any]] = [
    {"color": color, "linestyle": "-.", "marker": marker}
    for marker in "^Dv<>"
    for color in ("#CC79A7", "#E69F00", "#56B4E9", "#009E73", "black")
]
DOTS: dict[str, Any] = {"linestyle": "", "marker": ".", "markersize": 4, "markeredgewidth": 0, "alpha": 0.4}
FOUND: dict[str, Any] = {"color": "#0072B2", "linestyle": "", "marker": "o"}
NOT_FOUND = {**FOUND, "mfc": "white"}
MOST_LINES = 8
"""Methods that a panel of lines can show."""
BAND: dict[str, Any] = {"alpha": 0.18, "linewidth": 0}

styled = matplotlib.style.context(["default", RC])
"""Decorates what makes artists: they take their settings from here, never from the user's matplotlibrc."""


@styled
def draw_accuracy(accuracy: pd.DataFrame, seeds: pd.DataFrame, settings: Aggregate) -> dict[str, bytes]:
    """A panel a data set, test accuracy against the share of its training images, a line a method; of more
    than MOST_LINES methods the baseline and GTA alone.

    accuracy: of `tables.accuracy`; seeds: dataset, fraction, method and top1 of every seed, drawn as dots.
    """
    others = [name for name in accuracy["method"].unique() if name not in ("baseline", "GTA")]
    styles = dict(zip(others, cycle(OTHERS), strict=False))
    styles = {"baseline": {**BASELINE, "marker": "s"}, "GTA": GTA, **styles}
    shown = set(accuracy["method"])
    if len(shown) > MOST_LINES:
        shown &= {"baseline", "GTA"}
    styles = {name: style for name, style in styles.items() if name in shown}

    def panel(axes: Axes, rows: pd.DataFrame, dots: pd.DataFrame) -> None:
        for name, style in styles.items():
            line = rows[rows["method"] == name].sort_values("fraction")
            _line(axes, line["fraction"], line["top1"], line["top1_std"], style)
            spots = dots[dots["method"] == name]
            axes.plot(spots["fraction"], 100 * spots["top1"], **{**DOTS, "color": style["color"]})
        _ticks(axes, {float(fraction): str(fraction) for fraction in rows["fraction"]})

    def draw(name: str) -> Draw:
        of = (accuracy[accuracy["dataset"] == name], seeds[seeds["dataset"] == name])
        return lambda axes: panel(axes, *of)

    panels = {name: draw(name) for name in accuracy["dataset"].unique()}
    legend = _legend(styles, accuracy["seeds"])
    labels = ("training images used (% of each class)", "test top-1 accuracy (%)")
    columns = math.ceil(len(panels) / math.ceil(len(panels) / 3))
    return _render(panels, columns, "none", labels, legend, settings)


@styled
def draw_comparison(table: pd.DataFrame, settings: Aggregate) -> dict[str, bytes]:
    """Accuracy over the baseline, a panel a data set and fraction, a row a method; filled where p < 0.05.

    table: of `tables.comparison`. Bars are ± one standard deviation over seeds.
    """
    rows = table[table["method"].notna()]
    methods = list(dict.fromkeys(rows["method"]))

    def panel(axes: Axes, of: pd.DataFrame) -> None:
        axes.axvline(0, **BASELINE)
        for sure, part in of.groupby(of["p_adjusted"] < SURE):
            places = part["method"].map(methods.index)
            errors = 100 * part["difference_std"].fillna(0)
            axes.errorbar(100 * part["difference"], places, xerr=errors, **(FOUND if sure else NOT_FOUND))
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))

    def draw(of: pd.DataFrame) -> Draw:
        return lambda axes: panel(axes, of)

    cells = rows.groupby(["dataset", "fraction"], sort=False)
    panels = {f"{dataset}, {fraction} %": draw(of) for (dataset, fraction), of in cells}
    counts = " or ".join(str(count) for count in sorted(set(rows["seeds"])))
    legend: dict[str, Artist] = {
        "baseline": Line2D([], [], **BASELINE),
        f"± std, {counts} seeds": Line2D([], [], **NOT_FOUND),
        f"p < {SURE}": Line2D([], [], **FOUND),
    }
    labels = ("test accuracy over the baseline (points)", "")
    columns, nothing = min(rows["fraction"].nunique(), 2), "the grid has no method but the baseline"
    height = 0.16 * len(methods) + 0.6
    return _render(
        panels, columns, "row", labels, legend, settings.model_copy(update={"height": height}), nothing
    )


def draw_sensitivity(table: pd.DataFrame, settings: Aggregate) -> dict[str, bytes]:
    """Test accuracy against GTA's weight, a panel a data set (down) and fraction (across).

    table: of `tables.sensitivity`, as for `draw_attention`.
    """
    return _against_weight(table, "top1", "test top-1 accuracy (%)", settings)


def draw_attention(table: pd.DataFrame, settings: Aggregate) -> dict[str, bytes]:
    """The same for the [CLS] attention inside the object, with the frozen source's; data sets without
    objects are left out."""
    known = table[table["region"].notna()]
    known = known.assign(dataset=known["dataset"] + " (" + known["region"] + ")")
    return _against_weight(known, "mass", "attention inside the object (%)", settings)


@styled
def _against_weight(table: pd.DataFrame, measure: str, ylabel: str, settings: Aggregate) -> dict[str, bytes]:
    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        first = rows.iloc[0]
        _level(axes, first[f"baseline_{measure}"], first[f"baseline_{measure}_std"], BASELINE)
        if measure == "mass":
            _level(axes, first["mass_source"], math.nan, SOURCE)
        rows = rows[rows["weight"].notna()]
        spots = _spots(rows["weight"])
        places = rows["weight"].map(spots)
        _line(axes, places, rows[measure], rows[f"{measure}_std"], GTA)
        ring = rows["chosen"].astype(bool)
        axes.plot(places[ring], 100 * rows.loc[ring, measure], **RING)
        _ticks(axes, {spot: f"{weight:g}" for weight, spot in spots.items()})

    def draw(rows: pd.DataFrame) -> Draw:
        return lambda axes: panel(axes, rows)

    cells = table.groupby(["dataset", "fraction"], sort=False)
    panels = {f"{dataset}, {fraction} %": draw(rows) for (dataset, fraction), rows in cells}
    lines: dict[str, dict[str, Any]] = {}
    if table["weight"].notna().any():
        lines |= {"GTA": GTA, "reported λ": RING}
    if table[f"baseline_{measure}"].notna().any():
        lines |= {"baseline": BASELINE}
    if measure == "mass" and panels:
        lines |= {"frozen source": SOURCE}
    labels = ("GTA's weight λ", ylabel)
    sharey: Literal["row", "none"] = "row" if measure == "mass" else "none"
    return _render(
        panels, table["fraction"].nunique(), sharey, labels, _legend(lines, table["seeds"]), settings
    )


def _render(
    panels: dict[str, Draw],
    columns: int,
    sharey: Literal["row", "none"],
    labels: tuple[str, str],
    legend: dict[str, Artist],
    settings: Aggregate,
    nothing: str = "no data set of the grid knows where its objects are",
) -> dict[str, bytes]:
    """Format -> file. `panels`: title -> what draws it, row by row; `labels`: of x and of y."""
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
        _thin_out(axes, 0.05 * settings.dpi)
    return {name: save(figure, name) for name in METADATA}


def save(figure: Figure, name: str) -> bytes:
    """The figure as a file of the format `name`: the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=name, metadata=METADATA[name])
    return buffer.getvalue()


def _line(axes: Axes, x: pd.Series, mean: pd.Series, std: pd.Series, style: dict[str, Any]) -> None:
    axes.plot(x, 100 * mean, **style)
    axes.fill_between(x, 100 * (mean - std), 100 * (mean + std), color=style["color"], **BAND)


def _level(axes: Axes, mean: float, std: float, style: dict[str, Any]) -> None:
    """A line across the panel. Nothing where there is no mean."""
    if not math.isnan(mean):
        axes.axhline(100 * mean, **style)
    if not math.isnan(std):
        axes.axhspan(100 * (mean - std), 100 * (mean + std), color=style["color"], **BAND)


def _legend(lines: dict[str, dict[str, Any]], seeds: pd.Series) -> dict[str, Artist]:
    """What the lines are, and the bands where there is more than one seed."""
    legend: dict[str, Artist] = {name: Line2D([], [], **style) for name, style in lines.items()}
    counts = sorted({int(count) for count in seeds} - {1})
    if counts:
        legend[f"± std, {' or '.join(map(str, counts))} seeds"] = Patch(color="black", **BAND)
    return legend


def _spots(weights: Iterable[float]) -> dict[float, float]:
    """Weight -> place on a logarithmic axis; 0 gets one a step left of the smallest other weight."""
    spots = {weight: math.log10(weight) for weight in weights if weight > 0}
    low, high = min(spots.values(), default=0), max(spots.values(), default=0)
    step = (high - low) / max(len(spots) - 1, 1) or 1
    return {weight: spots.get(weight, low - step) for weight in weights}


def _ticks(axes: Axes, labels: dict[float, str]) -> None:
    """A labelled tick at every place, and nowhere else."""
    low, high = min(labels, default=0), max(labels, default=0)
    margin = 0.08 * (high - low) or 1
    axes.set_xlim(low - margin, high + margin)
    axes.set_xticks(sorted(labels), [labels[place] for place in sorted(labels)])


def _thin_out(axes: Axes, gap: float) -> None:
    """Hides labels of x that would come nearer than `gap` pixels to the last one."""
    free = -math.inf
    for label in axes.get_xticklabels():
        box = label.get_window_extent()
        label.set_visible(box.x0 >= free)
        free = box.x1 + gap if label.get_visible() else free
