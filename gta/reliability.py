"""Reliability diagrams: how often a model is right where it says how sure it is.

Guo, Pleiss, Sun, Weinberger (2017), "On Calibration of Modern Neural Networks", arXiv 1706.04599.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gta.choice import Cell
from gta.drawing import BASELINE, GTA, Draw, legend_of, render, styled
from gta.evaluated import in_order, read_shown
from gta.params.aggregate import Aggregate
from gta.tables import KEYS

STYLES: dict[str, dict[str, Any]] = {"baseline": {**BASELINE, "marker": "s"}, "GTA": GTA}
PERFECT: dict[str, Any] = {"color": "0.5", "linestyle": ":", "linewidth": 1}


def reliability_table(runs: Path, cells: list[Cell], seeds: list[int], bins: int) -> pd.DataFrame:
    """A row a cell x bin of confidence that has images: the test images of all seeds together.

    low, high: the bin's ends; share: of the images; confidence: the mean of the probability given to the
    predicted class; accuracy: how often that class was right. All in [0, 1].
    """
    needed = ["seed", "split", "label", "predicted", "confidence"]
    rows = read_shown(runs, cells, "predictions.csv", needed)
    rows = rows[(rows["split"] == "test") & rows["seed"].isin(seeds)]
    number = np.minimum((rows["confidence"].astype(float) * bins).astype(int), bins - 1)
    rows = rows.assign(bin=number, right=(rows["predicted"] == rows["label"]).astype(float))
    cell = [*KEYS, "method"]
    groups = in_order(rows, "bin").groupby([*cell, "bin"], sort=False, as_index=False)
    table = groups.agg(
        images=("right", "size"), confidence=("confidence", "mean"), accuracy=("right", "mean")
    )
    table.insert(3, "low", table["bin"] / bins)
    table.insert(4, "high", (table["bin"] + 1) / bins)
    table.insert(6, "share", table["images"] / table.groupby(cell)["images"].transform("sum"))
    return table.drop(columns="bin")


@styled
def draw_reliability(table: pd.DataFrame, settings: Aggregate) -> dict[str, bytes]:
    """A panel a data set and fraction; a dot's area is its bin's share of the images."""

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        axes.plot([0, 100], [0, 100], **PERFECT)
        for name, style in STYLES.items():
            points = rows[rows["method"] == name]
            places = (100 * points["confidence"], 100 * points["accuracy"])
            axes.plot(*places, **{**style, "marker": ""})
            axes.scatter(*places, 150 * points["share"], color=style["color"], marker=style["marker"])
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)

    def draw(rows: pd.DataFrame) -> Draw:
        return lambda axes: panel(axes, rows)

    panels = {f"{name}, {part} %": draw(rows) for (name, part), rows in table.groupby(KEYS, sort=False)}
    lines = {name: style for name, style in STYLES.items() if name in set(table["method"])}
    lines |= {"perfectly calibrated": PERFECT}
    legend = legend_of(lines, pd.Series(dtype=int))
    labels = ("confidence (%)", "accuracy (%)")
    columns = table["fraction"].nunique()
    return render(panels, columns, "none", labels, legend, settings, "no cell is shown")
