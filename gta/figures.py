"""Figures of a finished grid: methods against the baseline, accuracy against data and GTA's weight.

Bands are mean ± sample standard deviation over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import cycle
from typing import Any, Literal

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gta.drawing import BASELINE, GTA, SOURCE, Draw, legend_of, level, line, render, styled, ticks
from gta.methods import parse_method
from gta.params.aggregate import Aggregate
from gta.tables import SURE

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
            points = rows[rows["method"] == name].sort_values("fraction")
            line(axes, points["fraction"], 100 * points["top1"], 100 * points["top1_std"], style)
            spots = dots[dots["method"] == name]
            axes.plot(spots["fraction"], 100 * spots["top1"], **{**DOTS, "color": style["color"]})
        ticks(axes, {float(fraction): str(fraction) for fraction in rows["fraction"]})

    def draw(name: str) -> Draw:
        of = (accuracy[accuracy["dataset"] == name], seeds[seeds["dataset"] == name])
        return lambda axes: panel(axes, *of)

    panels = {name: draw(name) for name in accuracy["dataset"].unique()}
    legend = legend_of(styles, accuracy["seeds"])
    labels = ("training images used (% of each class)", "test top-1 accuracy (%)")
    columns = math.ceil(len(panels) / math.ceil(len(panels) / 3))
    return render(panels, columns, "none", labels, legend, settings)


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
    return render(
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
def draw_kept(table: pd.DataFrame, settings: Aggregate) -> dict[str, bytes]:
    """Accuracy against how much of the source's attention on the object is kept, a panel a data set and
    fraction, a dot a method with its bars of ± std; numbers are GTA's weights.

    table: of `tables.kept`.
    """
    families = {name: parse_method(name).family for name in table["method"].unique()}
    others = [family for family in families.values() if family not in ("baseline", "GTA")]
    styles = dict(zip(dict.fromkeys(others), cycle(OTHERS), strict=False))
    styles = {"baseline": {**BASELINE, "marker": "s"}, "GTA": GTA, **styles}
    styles = {name: {**style, "linestyle": ""} for name, style in styles.items()}

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        axes.axvline(100, **SOURCE)
        for row in rows.to_dict("records"):
            place = (100 * row["kept"], 100 * row["top1"])
            xerr, yerr = (
                None if math.isnan(row[name]) else 100 * row[name] for name in ("kept_std", "top1_std")
            )
            style = styles[families[row["method"]]]
            axes.errorbar(*place, xerr=xerr, yerr=yerr, elinewidth=0.6, **style)
            if not math.isnan(row["weight"]):
                axes.annotate(f"{row['weight']:g}", place, (3, 3), textcoords="offset points", fontsize=6)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))

    def draw(rows: pd.DataFrame) -> Draw:
        return lambda axes: panel(axes, rows)

    cells = table.groupby(["dataset", "fraction", "region"], sort=False)
    panels = {f"{name} ({region}), {part} %": draw(rows) for (name, part, region), rows in cells}
    lines = {name: style for name, style in styles.items() if name in families.values()}
    lines |= {"as the frozen source": SOURCE} if panels else {}
    legend: dict[str, Artist] = {name: Line2D([], [], **style) for name, style in lines.items()}
    labels = ("attention on the object kept (% of the source's)", "test top-1 accuracy (%)")
    return render(panels, min(table["fraction"].nunique(), 3), "none", labels, legend, settings)


@styled
def _against_weight(table: pd.DataFrame, measure: str, ylabel: str, settings: Aggregate) -> dict[str, bytes]:
    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        first = rows.iloc[0]
        level(axes, 100 * first[f"baseline_{measure}"], 100 * first[f"baseline_{measure}_std"], BASELINE)
        if measure == "mass":
            level(axes, 100 * first["mass_source"], math.nan, SOURCE)
        rows = rows[rows["weight"].notna()]
        spots = _spots(rows["weight"])
        places = rows["weight"].map(spots)
        line(axes, places, 100 * rows[measure], 100 * rows[f"{measure}_std"], GTA)
        ring = rows["chosen"].astype(bool)
        axes.plot(places[ring], 100 * rows.loc[ring, measure], **RING)
        ticks(axes, {spot: f"{weight:g}" for weight, spot in spots.items()})

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
    return render(
        panels, table["fraction"].nunique(), sharey, labels, legend_of(lines, table["seeds"]), settings
    )


def _spots(weights: Iterable[float]) -> dict[float, float]:
    """Weight -> place on a logarithmic axis; 0 gets one a step left of the smallest other weight."""
    spots = {weight: math.log10(weight) for weight in weights if weight > 0}
    low, high = min(spots.values(), default=0), max(spots.values(), default=0)
    step = (high - low) / max(len(spots) - 1, 1) or 1
    return {weight: spots.get(weight, low - step) for weight in weights}
