"""Training curves: loss, its components and accuracy by epoch, over seeds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from gta.choice import Cell
from gta.drawing import BASELINE, GTA, Draw, legend_of, line, render, styled
from gta.evaluated import read_shown
from gta.params.aggregate import Aggregate
from gta.tables import KEYS

STYLES = {"baseline": BASELINE, "GTA": {**GTA, "marker": ""}}
PANELS = {
    "cross_entropy": ("cross-entropy", 1),
    "gta": ("GTA's penalty", 1),
    "train_top1": ("training accuracy (%)", 100),
    "val_top1": ("validation accuracy (%)", 100),
}
"""Column of history.csv -> its title, and its unit's share."""


def curve_table(runs: Path, cells: list[Cell], seeds: list[int]) -> pd.DataFrame:
    """A row a cell x epoch: means over seeds, and `<column>_std`, of every column of history.csv."""
    rows = read_shown(runs, cells, "history.csv", ["seed", "epoch", "cross_entropy", "loss", "train_top1"])
    groups = rows[rows["seed"].isin(seeds)].groupby([*KEYS, "method", "epoch"], sort=False)
    columns = [name for name in rows if name not in [*KEYS, "method", "epoch", "seed", "lr"]]
    values = groups[columns]
    means = groups.size().rename("seeds").to_frame().join(values.mean())
    return means.join(values.std().add_suffix("_std")).reset_index()


@styled
def draw_curves(table: pd.DataFrame, settings: Aggregate) -> dict[str, bytes]:
    """A row of panels a data set and fraction: the columns PANELS that there are, against the epoch. Where
    validation was not after every epoch, its points are joined."""
    shown = [name for name in PANELS if name in table and table[name].notna().any()]
    panels: dict[str, Draw] = {}
    for (dataset, fraction), rows in table.groupby(KEYS, sort=False):
        for name in shown:
            panels[f"{dataset}, {fraction} %\n{PANELS[name][0]}"] = _panel(rows, name)
    lines = {name: style for name, style in STYLES.items() if name in set(table["method"])}
    legend = legend_of(lines, table["seeds"])
    return render(panels, len(shown), "none", ("epoch", ""), legend, settings, "no cell is shown")


def _panel(rows: pd.DataFrame, name: str) -> Draw:
    scale = PANELS[name][1]

    def draw(axes: Axes) -> None:
        for method, style in STYLES.items():
            points = rows[(rows["method"] == method) & rows[name].notna()]
            line(axes, points["epoch"], scale * points[name], scale * points[f"{name}_std"], style)

    return draw
