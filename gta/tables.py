"""Tables of a finished grid: the weights that are reported, accuracy, attention on the object.

Accuracy, shares and attention are in [0, 1] here and in every csv file; per cent in Markdown only. `std` is
the sample standard deviation over seeds (divided by n - 1), empty for a single seed.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from pandas.errors import EmptyDataError, ParserError
from scipy.stats import false_discovery_control
from scipy.stats import t as student

from gta.errors import InputError
from gta.methods import BASELINE, PENALTIES, families, of_weight, parse_method
from gta.params.aggregate import Region
from gta.params.evaluate import LOCALISATION
from gta.params.grid import Grid

SURE = 0.05
"""Adjusted p below which a difference is marked."""
GTA = PENALTIES["gta"].label
KEYS = ["dataset", "fraction"]
REGIONS: tuple[Region, ...] = get_args(Region)
OF_REGION = (
    "images_{}",
    "share_{}",
    *(f"{name}_{{}}{of}" for name in LOCALISATION for of in ("", "_source")),
)
"""Measures of an object region. images: that have it; share: the object's share of the view; then the
model's localisation and the frozen source's."""
MEASURES = ["top1", *(name.format(region) for region in REGIONS for name in OF_REGION)]


class Choice(NamedTuple):
    """The method that is reported for one data set, fraction and family."""

    method: str
    protocol: str
    """Who chose its weight: `validation (<n> images)` or `given`."""


def read_cells(folder: Path, grid: Grid) -> pd.DataFrame:
    """The rows (seed x split) of exactly the grid's cells, in the grid's order.

    Raises InputError naming the file where a cell is missing or is not what its place says.
    """
    cells = product(grid.datasets, grid.fractions, grid.methods)
    return pd.concat([_read_cell(folder, *cell, grid.seeds) for cell in cells], ignore_index=True)


def _read_cell(folder: Path, dataset: str, fraction: int, method: str, seeds: list[int]) -> pd.DataFrame:
    path = folder / dataset / str(fraction) / method / "seeds.csv"
    texts = dict.fromkeys(["dataset", "method", "split"], str)
    try:
        rows = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, though the cell is in the grid") from None
    except (EmptyDataError, ParserError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a table: {' '.join(str(error).split())}") from None
    needed = [*KEYS, "method", "seed", "split", "images", "train_images", *MEASURES]
    if missing := [name for name in needed if name not in rows]:
        raise InputError(
            f"{path}: expected the columns {', '.join(missing)}, found {', '.join(rows.columns)}"
        )
    place = (dataset, fraction, method)
    for found in rows[[*KEYS, "method"]].drop_duplicates().itertuples(index=False, name=None):
        if found != place:
            raise InputError(f"{path}: expected the cell {place}, found rows of {found}")
    for split, optional in (("val", True), ("test", False)):
        has = sorted(rows.loc[rows["split"] == split, "seed"])
        if has != sorted(seeds) and (has or not optional):
            raise InputError(f"{path}: expected the {split} rows of seeds {sorted(seeds)}, found {has}")
    return rows


def gta_weights(grid: Grid) -> dict[str, float]:
    """The methods that are GTA alone, with their weights (the paper's lambda), in order of weight."""
    names = families(grid.methods).get(GTA, [])
    return {name: parse_method(name).weights["gta"] for name in names}


def choose(val: pd.DataFrame, grid: Grid, given: float | None) -> dict[tuple[str, int, str], Choice]:
    """The reported method of each data set, fraction and family; nothing for the baseline.

    `val`: validation rows only, so that no test image can have a say. `given`: the weight of GTA,
    in families that have no other penalty.
    Else, and for every other family with more than one member: the highest mean top1 over seeds, on a tie
    the smaller weight. Raises InputError where there is nothing to choose by or `given` is not in the grid,
    ValueError where `val` has other rows.
    """
    if not (val["split"] == "val").all():
        raise ValueError(f"expected rows of the split val, got {sorted(set(val['split']))}")
    _check_given(given, gta_weights(grid))
    chosen = {}
    for dataset, fraction in product(grid.datasets, grid.fractions):
        rows = val[(val["dataset"] == dataset) & (val["fraction"] == fraction)]
        for family, names in families(grid.methods).items():
            names = of_weight(names, given)
            key = (dataset, fraction, family)
            chosen[key] = Choice(names[0], "given") if len(names) == 1 else _best(rows, key, names)
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


def measure(test: pd.DataFrame) -> pd.DataFrame:
    """Test rows -> a row a data set x fraction x method: means over seeds, `<measure>_std` beside them.

    `difference`: a method's top1 minus the baseline's; `kept`: the model's mass over the source's. Both are
    taken seed by seed before mean and std.
    """
    plain = test[test["method"] == BASELINE].set_index([*KEYS, "seed"])["top1"].rename("plain")
    rows = test.join(plain, on=[*KEYS, "seed"])
    rows["difference"] = (rows["top1"] - rows["plain"]).where(rows["method"] != BASELINE)
    kept = [f"kept_{region}" for region in REGIONS]
    for region, name in zip(REGIONS, kept, strict=True):
        rows[name] = rows[f"mass_{region}"] / rows[f"mass_{region}_source"]
    groups = rows.groupby([*KEYS, "method"], sort=False)
    sizes = groups.agg(
        train_images=("train_images", "max"), test_images=("images", "max"), seeds=("seed", "size")
    )
    values = groups[["difference", *MEASURES, *kept]]
    return sizes.join(values.mean()).join(values.std().add_suffix("_std")).reset_index()


def label(measured: pd.DataFrame, grid: Grid, choices: dict[tuple[str, int, str], Choice]) -> pd.DataFrame:
    """Adds `weight` (of methods that are GTA alone), and for what tables report its `label`, which is its
    family,
    and the `protocol` behind its weight."""
    weights = gta_weights(grid)
    labels: list[tuple[float | None, str | None, str | None]] = []
    for dataset, fraction, method in measured[[*KEYS, "method"]].itertuples(index=False, name=None):
        family = parse_method(method).family
        choice = choices.get((dataset, fraction, family))
        if method == BASELINE:
            labels.append((None, BASELINE, None))
        elif choice is not None and choice.method == method:
            labels.append((weights.get(method), family, choice.protocol))
        else:
            labels.append((weights.get(method), None, None))
    added = pd.DataFrame(labels, columns=["weight", "label", "protocol"], index=measured.index)
    return measured.join(added.astype({"weight": float}))


def by_region(measured: pd.DataFrame) -> pd.DataFrame:
    """A row a region that the data set's objects have; measures lose its name, as `mass_source`."""
    parts = []
    for region in REGIONS:
        names = {name: name.replace(f"_{region}", "") for name in measured.columns}
        others = [name for other in REGIONS if other != region for name in names if f"_{other}" in name]
        part = measured.drop(columns=others).rename(columns=names)
        parts.append(part[part["images"] > 0].assign(region=region))
    return pd.concat(parts, ignore_index=True)


def preferred(regions: pd.DataFrame, region: Region) -> pd.DataFrame:
    """One region a data set: `region` where it is known, else the other."""
    known = regions.loc[regions["region"] == region, "dataset"]
    return regions[(regions["region"] == region) | ~regions["dataset"].isin(known)]


def accuracy(measured: pd.DataFrame) -> pd.DataFrame:
    """A row a data set x fraction x reported method."""
    columns = ["train_images", "label", "name", "weight", "seeds", "top1", "top1_std"]
    return _named(measured)[[*KEYS, *columns]].rename(columns={"label": "method"})


def _named(measured: pd.DataFrame) -> pd.DataFrame:
    """The reported rows, with the method's name in the grid as `name`."""
    return measured[measured["label"].notna()].rename(columns={"method": "name"})


def comparison(measured: pd.DataFrame) -> pd.DataFrame:
    """A row a data set x fraction x reported method, the baseline beside it and the paired difference.

    `p`: two-sided paired t-test over seeds, see `paired_test`; `p_adjusted`: after Benjamini and Hochberg
    (1995), for all rows of the table together.
    """
    cells = _cells(measured, ["train_images", "test_images", "seeds"], ["top1", "top1_std"])
    columns = ["label", "name", "weight", "protocol", "top1", "top1_std", "difference", "difference_std"]
    rows = _named(measured)
    rows = rows.loc[rows["name"] != BASELINE, [*KEYS, *columns]]
    table = cells.merge(rows, how="left", on=KEYS).rename(columns={"label": "method"})
    table["p"] = paired_test(table["difference"], table["difference_std"], table["seeds"])
    known = table["p"].notna()
    table["p_adjusted"] = np.nan
    table.loc[known, "p_adjusted"] = false_discovery_control(table.loc[known, "p"])
    return table


def paired_test(mean: pd.Series, std: pd.Series, seeds: pd.Series) -> pd.Series:
    """p of the hypothesis that paired differences have mean 0, by Student's t with seeds - 1 degrees of
    freedom.

    NaN for one seed, and where all differences are equal, from which t says nothing.
    """
    t = mean.abs() / (std.where(std > 1e-6) / np.sqrt(seeds))  # measures are stored with six digits
    return pd.Series(2 * student.sf(t, (seeds - 1).where(seeds > 1)), index=mean.index)


def attention(measured: pd.DataFrame) -> pd.DataFrame:
    """A row a region x data set x fraction x reported method: how much attention is on the object."""
    measures = ["share", *(f"{name}{of}" for name in LOCALISATION for of in ("_source", "", "_std"))]
    beside = ["kept", "kept_std", "difference", "difference_std"]
    rows = by_region(_named(measured))
    rows = rows[["region", *KEYS, "images", "seeds", "label", "name", "weight", *measures, *beside]]
    return rows.rename(columns={"label": "method"})


def sensitivity(measured: pd.DataFrame, region: Region) -> pd.DataFrame:
    """A row a data set x fraction x GTA weight, the baseline and the source beside it.

    Without GTA in the grid, the cells stand alone.
    """
    points = measured[measured["weight"].notna()].sort_values("weight", kind="stable")
    points = points.assign(chosen=points["label"].notna())[[*KEYS, "weight", "chosen", "top1", "top1_std"]]
    objects = preferred(by_region(measured), region)
    on_object = objects.loc[objects["weight"].notna(), [*KEYS, "weight", "mass", "mass_std"]]
    cells = _cells(measured, ["train_images", "seeds"], ["top1", "top1_std"])
    cells = cells.merge(_cells(objects, ["region", "mass_source"], ["mass", "mass_std"]), how="left", on=KEYS)
    return cells.merge(points, how="left", on=KEYS).merge(on_object, how="left", on=[*KEYS, "weight"])


def _cells(measured: pd.DataFrame, common: list[str], measures: list[str]) -> pd.DataFrame:
    """A row a data set x fraction: what all methods share, and the baseline's measures, so named."""
    plain = measured.loc[measured["method"] == BASELINE, [*KEYS, *measures]]
    plain = plain.rename(columns={name: f"baseline_{name}" for name in measures})
    return measured.drop_duplicates(KEYS)[[*KEYS, *common]].merge(plain, how="left", on=KEYS)


def metrics(measured: pd.DataFrame, region: Region) -> dict[str, Any]:
    """Data set -> `f<fraction>` -> family (`gta`: the chosen one) -> measures; no dots in keys, for DVC."""
    objects = preferred(by_region(measured), region)[[*KEYS, "method", "mass", "mass_std", "mass_source"]]
    rows = measured[measured["label"].notna()].merge(objects, how="left", on=[*KEYS, "method"])
    names = ["weight", "top1", "top1_std", "difference", "difference_std", "mass", "mass_std", "mass_source"]
    tree: dict[str, Any] = {}
    for row in rows.to_dict("records"):
        cell = tree.setdefault(row["dataset"], {}).setdefault(f"f{row['fraction']}", {})
        values = {name: float(f"{row[name]:.6g}") for name in names if pd.notna(row[name])}
        cell[row["label"].lower().replace(" + ", "+").replace(" ", "_")] = values
    return tree
