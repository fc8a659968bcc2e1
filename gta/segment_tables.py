"""The table of attention-map segmentation: the source and every reported model on every set of images."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from gta.choice import Choices
from gta.errors import InputError
from gta.evaluated import read_table
from gta.methods import BASELINE
from gta.params.grid import Grid
from gta.protocols import PROTOCOLS
from gta.tables import KEYS
from gta.texts import markdown, percent, weights

FROZEN = "frozen-source"
"""Folder of what the source gives; no data set can have this name."""
COUNTS = ["images", "empty_images", "void_images", "objects"]
TITLES = ["images", "without object", "all void", "objects"]
COLUMNS = ["on", *KEYS, "method", "name", "seeds", *COUNTS]
COLUMNS += [f"{protocol}{of}" for protocol in PROTOCOLS for of in ("", "_std")]
SEGMENTATION = """\
Per cent, mean ± sample standard deviation over seeds: the Jaccard index of objects with the strongest patches
that hold segment.keep of the last block's [CLS] attention, averaged over the objects of an image, then over
images; void pixels are left out, images without an object too. Best head: of each object the head that is
best on it, DINO's protocol, which no one could follow without the answer. Chosen head: the one head that is
best on the other half of the images. Mean of heads: the heads' maps averaged into one.
"""
NO_SETS = "No set of images is segmented: `segment.on` is empty."


def read_segments(
    folder: Path, on: list[str], grid: Grid, choices: Choices, partial: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """A row a set x reported model, the source's first, with the columns COLUMNS, scores in [0, 1]; and the
    folders of those that are missing, where `partial` allows it.

    method: `source`, `baseline` or the family; name: its name in the grid. Raises InputError naming the file
    where a cell is missing or damaged, or has other models than the grid's seeds.
    """
    seeds = [str(seed) for seed in grid.seeds]
    wanted: list[tuple[Path, dict[str, Any], list[str]]] = []
    for objects in on:
        wanted.append((folder / objects / FROZEN, {"on": objects, "method": "source"}, ["source"]))
        for dataset, fraction in product(grid.datasets, grid.fractions):
            for label, name in reported_methods(dataset, fraction, grid, choices).items():
                cell = {"dataset": dataset, "fraction": fraction, "method": label, "name": name}
                place = folder / objects / dataset / str(fraction) / name
                wanted.append((place, {"on": objects} | cell, seeds))
    missing = [place for place, _, _ in wanted if partial and not (place / "summary.csv").exists()]
    rows = [row | _measured(place, models) for place, row, models in wanted if place not in missing]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"fraction": "Int64"})
    return table, [str(place) for place in missing]


def reported_methods(dataset: str, fraction: int, grid: Grid, choices: Choices) -> dict[str, str]:
    """Label -> name in the grid: the baseline, where it is there, and what was chosen of each family."""
    plain = {BASELINE: BASELINE} if BASELINE in grid.methods else {}
    chosen = {key[2]: choice.method for key, choice in choices.items() if key[:2] == (dataset, fraction)}
    return plain | chosen


def _measured(folder: Path, models: list[str]) -> dict[str, Any]:
    """Counts, and mean and std over the models of a cell's summary.csv."""
    path = folder / "summary.csv"
    rows = read_table(path, ["model", *COUNTS, *PROTOCOLS])
    if sorted(rows["model"]) != sorted(models):
        raise InputError(f"{path}: expected rows of {', '.join(models)}, found {', '.join(rows['model'])}")
    found: dict[str, Any] = {"seeds": len(rows)} | {name: int(rows[name].iloc[0]) for name in COUNTS}
    for name in PROTOCOLS:
        found |= {name: rows[name].mean(), f"{name}_std": rows[name].std()}
    return found


def segmentation_markdown(table: pd.DataFrame, decimals: int) -> str:
    """A page: what the table says, and the table."""
    shown = markdown(segmentation_rows(table, decimals)) if len(table) else NO_SETS + "\n"
    return f"# Attention as a segmentation\n\n{SEGMENTATION}\n{shown}"


def segmentation_rows(table: pd.DataFrame, decimals: int) -> list[dict[str, str]]:
    """Column -> cell, of `read_segments`."""
    return [_row(row, decimals) for row in table.to_dict("records")]


def _row(row: dict[Any, Any], decimals: int) -> dict[str, str]:
    frozen = row["method"] == "source"
    scores = [percent(row[name], None if frozen else row[f"{name}_std"], decimals) for name in PROTOCOLS]
    return {
        "images of": row["on"],
        "model": "frozen source" if frozen else row["method"],
        "trained on": "–" if frozen else f"{row['dataset']}, {row['fraction']} %",
        "λ": weights(row["name"]),
        **dict(zip(("best head", "chosen head", "mean of heads"), scores, strict=True)),
        **{title: str(row[name]) for title, name in zip(TITLES, COUNTS, strict=True)},
    }
