"""Confusion matrices, and the classes that are most often taken for one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from gta.choice import Cell
from gta.drawing import Draw, render, styled
from gta.evaluated import in_order, read_shown, read_table
from gta.params.aggregate import Aggregate
from gta.tables import KEYS
from gta.texts import percent

MOST_NAMES = 20
"""Classes whose names, and whose shares, a matrix has room for."""
LONGEST = 12
"""Letters of a class name beside a matrix."""
TOP = 10
"""Confusions that the report lists of each data set and fraction."""


def class_names(runs: Path, cells: list[Cell]) -> dict[str, dict[int, str]]:
    """Data set -> label -> class."""
    found: dict[str, dict[int, str]] = {}
    for cell in cells:
        if cell.dataset not in found:
            rows = read_table(cell.folder(runs) / "classes.csv", ["label", "class"])
            found[cell.dataset] = dict(zip(rows["label"], rows["class"], strict=True))
    return found


def confusion_table(runs: Path, cells: list[Cell], seeds: list[int]) -> pd.DataFrame:
    """A row a cell x class x predicted class that occurs: the test images of all seeds together.

    share: of the class's images, in [0, 1].
    """
    rows = read_shown(runs, cells, "predictions.csv", ["seed", "split", "label", "predicted"])
    rows = rows[(rows["split"] == "test") & rows["seed"].isin(seeds)]
    place = [*KEYS, "method", "label"]
    groups = in_order(rows, "label", "predicted").groupby([*place, "predicted"], sort=False)
    table = groups.size().rename("images").reset_index()
    table["share"] = table["images"] / table.groupby(place)["images"].transform("sum")
    names = class_names(runs, cells)
    for number, (label, name) in enumerate({"label": "class", "predicted": "predicted_class"}.items()):
        labelled = [names[dataset][of] for dataset, of in table[["dataset", label]].itertuples(index=False)]
        table.insert(4 + 2 * number, name, labelled)
    return table


@styled
def draw_confusion(table: pd.DataFrame, names: dict[int, str], settings: Aggregate) -> dict[str, bytes]:
    """Of one data set a panel a fraction (down) and method (across): rows are classes, columns what they are
    taken for, the darker the larger the share. names: label -> class."""

    def draw(rows: pd.DataFrame) -> Draw:
        return lambda axes: _matrix(axes, rows, list(names.values()))

    labels = list(names)
    panels: dict[str, Draw] = {}
    for (fraction, method), rows in table.groupby(["fraction", "method"], sort=False):
        places = rows.assign(row=rows["label"].map(labels.index), column=rows["predicted"].map(labels.index))
        panels[f"{method}, {fraction} %"] = draw(places)
    square = settings.model_copy(update={"height": settings.width / 3})
    return render(panels, max(table["method"].nunique(), 1), "none", ("predicted class", "class"), {}, square)


def _matrix(axes: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    shares = np.zeros((len(names), len(names)))
    shares[rows["row"], rows["column"]] = rows["share"]
    # the square root: single confusions among many classes stay visible
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    axes.grid(False)
    if len(names) > MOST_NAMES:
        return
    short = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]
    axes.set_xticks(range(len(names)), short, rotation=90)
    axes.set_yticks(range(len(names)), short)
    for row, column, share in rows[["row", "column", "share"]].itertuples(index=False):
        colour = "white" if share > 0.4 else "black"
        text = f"{100 * share:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=5, color=colour)


def confusion_rows(table: pd.DataFrame, decimals: int) -> dict[str, list[dict[str, str]]]:
    """Data set and fraction -> rows of column -> cell: the TOP pairs with the largest shares, of the method
    that makes the mistake most often."""
    found: dict[str, list[dict[str, str]]] = {}
    wrong = table[table["label"] != table["predicted"]]
    for (dataset, fraction), rows in wrong.groupby(KEYS, sort=False):
        methods = table.loc[
            (table["dataset"] == dataset) & (table["fraction"] == fraction), "method"
        ].unique()
        pairs = rows.pivot(index=["class", "predicted_class"], columns="method", values="share").fillna(0.0)
        pairs = pairs.reindex(columns=methods, fill_value=0.0)
        order = pairs.max(axis=1).sort_values(ascending=False, kind="stable").index[:TOP]
        found[f"{dataset}, {fraction} %"] = [
            {"class": name, "taken for": other}
            | {method: percent(pairs.loc[(name, other), method], None, decimals) for method in methods}
            for name, other in order
        ]
    return found
