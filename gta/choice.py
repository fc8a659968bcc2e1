"""Which methods are reported: of every family the one whose weight validation images, or the user, chose."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from gta.errors import InputError
from gta.methods import BASELINE, PENALTIES, families, of_weight, parse_method
from gta.params.grid import Grid

GTA = PENALTIES["gta"].label
"""The family of GTA alone, as tables call it."""
Choices = dict[tuple[str, int, str], "Choice"]
"""(data set, fraction, family) -> what is reported."""


class Choice(NamedTuple):
    """The method that is reported for one data set, fraction and family."""

    method: str
    protocol: str
    """Who chose its weight: `validation (<n> images)` or `given`; of an unfinished grid also of how
    many weights."""


class Cell(NamedTuple):
    """A cell of the grid that figures show."""

    title: str
    """`baseline` or `GTA`."""
    dataset: str
    fraction: int
    method: str

    def folder(self, runs: Path) -> Path:
        """What `evaluate` has written of it."""
        return runs / self.dataset / str(self.fraction) / self.method


def shown(long: pd.DataFrame, grid: Grid, choices: Choices) -> dict[str, list[Cell]]:
    """Data set -> baseline and reported GTA at the smallest and the largest fraction, where `long` has rows
    of them."""
    known = set(long[["dataset", "fraction", "method"]].itertuples(index=False, name=None))
    ends = dict.fromkeys((min(grid.fractions), max(grid.fractions)))
    found: dict[str, list[Cell]] = {dataset: [] for dataset in grid.datasets}
    for dataset, fraction in product(grid.datasets, ends):
        reported = {"baseline": BASELINE}
        if (dataset, fraction, GTA) in choices:
            reported[GTA] = choices[dataset, fraction, GTA].method
        cells = [Cell(title, dataset, fraction, method) for title, method in reported.items()]
        found[dataset] += [cell for cell in cells if cell[1:] in known]
    return found


def gta_weights(grid: Grid) -> dict[str, float]:
    """The methods that are GTA alone, with their weights (the paper's lambda), in order of weight."""
    names = families(grid.methods).get(GTA, [])
    return {name: parse_method(name).weights["gta"] for name in names}


def choose(
    val: pd.DataFrame, grid: Grid, given: float | None, missing: Collection[tuple[str, int, str]] = ()
) -> Choices:
    """The reported method of each data set, fraction and family; nothing for the baseline.

    `val`: validation rows only, so that no test image can have a say. `given`: the weight of GTA,
    in families that have no other penalty. `missing`: cells (data set, fraction, method) that have not
    been evaluated, between which and the others nothing is chosen; the protocol says so.
    Else, and for every other family with more than one member: the highest mean top1 over seeds, on a tie
    the smaller weight. Raises InputError where there is nothing to choose by or `given` is not in the grid,
    ValueError where `val` has other rows.
    """
    if not (val["split"] == "val").all():
        raise ValueError(f"expected rows of the split val, got {sorted(set(val['split']))}")
    _check_given(given, gta_weights(grid))
    chosen: Choices = {}
    for dataset, fraction in product(grid.datasets, grid.fractions):
        rows = val[(val["dataset"] == dataset) & (val["fraction"] == fraction)]
        for family, names in families(grid.methods).items():
            all_names = of_weight(names, given)
            names = [name for name in all_names if (dataset, fraction, name) not in missing]
            key = (dataset, fraction, family)
            if not names:
                continue
            choice = Choice(names[0], "given") if len(all_names) == 1 else _best(rows, key, names)
            if len(names) < len(all_names):
                so_far = f"{choice.protocol}, {len(names)} of {len(all_names)} weights so far"
                choice = choice._replace(protocol=so_far)
            chosen[key] = choice
    return chosen


def _check_given(given: float | None, weights: dict[str, float]) -> None:
    if given is not None and given not in weights.values():
        raise InputError(
            f"params.yaml: aggregate.weight: expected a weight of grid.methods ({_listed(weights)}) or null, "
            f"got {given}"
        )


def _listed(weights: dict[str, float]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights.values()) or "there is none"


def _best(val: pd.DataFrame, key: tuple[str, int, str], names: list[str]) -> Choice:
    """The best on validation of the methods `names`, which are in order of weight."""
    rows = val[val["method"].isin(names)]
    if set(rows["method"]) != set(names):
        dataset, fraction, family = key
        where = f"{dataset} at {fraction} % has no validation images"
        where += " and a weight is never chosen on test images"
        if family == GTA:
            weights = {name: parse_method(name).weights["gta"] for name in names}
            raise InputError(
                f"params.yaml: aggregate.weight: expected a number, as {where}; choices: {_listed(weights)}; "
                "got null"
            )
        raise InputError(
            f"params.yaml: grid.methods: expected one weight of {family}, as {where}; got {', '.join(names)}"
        )
    # Counts of images, as shares rounded to six digits would hide ties.
    counts = pd.DataFrame({"right": (rows["top1"] * rows["images"]).round(), "of": rows["images"]})
    sums = counts.groupby(rows["method"]).sum()
    accuracy = (sums["right"] / sums["of"]).to_dict()
    method = max(names, key=lambda name: accuracy[name])  # the first of equals
    return Choice(method, f"validation ({rows['images'].max()} images)")
