"""Where each head of each block looks: its entropy, its distance to the source's, its mass on the object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gta.choice import Cell
from gta.drawing import BASELINE, GTA, SOURCE, Draw, legend_of, render, styled
from gta.evaluated import read_shown
from gta.params.aggregate import Aggregate, Region
from gta.params.evaluate import PER_HEAD
from gta.tables import KEYS

FROZEN = "source"
STYLES: dict[str, dict[str, Any]] = {FROZEN: SOURCE, "baseline": BASELINE, "GTA": {**GTA, "markersize": 3}}
THIN: dict[str, Any] = {"linewidth": 0.5, "alpha": 0.5, "marker": ""}


def layer_table(runs: Path, cells: list[Cell], seeds: list[int]) -> pd.DataFrame:
    """A row a cell x layer x head, numbers from 0: means over the test images, then over seeds, and
    `<measure>_std` over seeds; see `gta.heads`. The rows of the frozen source, which neither fraction nor
    seed changes, have neither."""
    rows = read_shown(runs, cells, "layers.csv", ["model", "layer", "head", *PER_HEAD])
    frozen = (rows["model"] == FROZEN) & ~rows.duplicated(["dataset", "model", "layer", "head"])
    source = rows[frozen].assign(method=FROZEN, fraction=float("nan"))
    own = rows[rows["model"].isin([str(seed) for seed in seeds])]
    places = [*KEYS, "method", "layer", "head"]
    groups = pd.concat([source, own]).groupby(places, sort=False, dropna=False)
    measures = groups[[*PER_HEAD]]
    means = groups.size().rename("seeds").to_frame().join(measures.mean())
    table = means.join(measures.std().add_suffix("_std")).reset_index().astype({"fraction": "Int64"})
    return table.assign(seeds=table["seeds"].astype("Int64").where(table["method"] != FROZEN))


@styled
def draw_layers(table: pd.DataFrame, region: Region, settings: Aggregate) -> dict[str, bytes]:
    """Of one data set a row of panels a fraction, each measure against the layer: lines are means over
    heads, thin ones the heads. Without objects there is no panel of mass; of `region` and the other one it
    shows the one that is known."""
    known = [name for name in (f"mass_{region}", "mass_mask", "mass_box") if table[name].notna().any()]
    titles = {"entropy": "entropy (nats)", "distance": "squared distance to the source"}
    titles |= {name: f"mass on the {name.removeprefix('mass_')} (%)" for name in known[:1]}
    panels: dict[str, Draw] = {}
    for fraction in table["fraction"].dropna().unique():
        rows = table[table["fraction"].isna() | (table["fraction"] == fraction)]
        for measure, title in titles.items():
            panels[f"{fraction} %\n{title}"] = _panel(rows, measure)
    names = dict.fromkeys(table["method"])
    lines = {name: style for name, style in STYLES.items() if name in names}
    lines |= {"each head": {"color": "black", **THIN}}
    legend = legend_of(lines, pd.Series(dtype=int))
    return render(panels, len(titles), "none", ("block, from 0", ""), legend, settings)


def _panel(rows: pd.DataFrame, measure: str) -> Draw:
    scale = 100 if measure.startswith("mass") else 1

    def draw(axes: Axes) -> None:
        for name, style in STYLES.items():
            lines = rows[rows["method"] == name].pivot(index="layer", columns="head", values=measure) * scale
            if name == FROZEN and measure == "distance":
                continue  # zero by definition
            axes.plot(lines.index, lines.to_numpy(), **{**style, **THIN})
            axes.plot(lines.index, lines.mean(axis=1), **style)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    return draw
