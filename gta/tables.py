"""Tables of a finished grid: accuracy, and attention on the object.

Accuracy, shares and attention are in [0, 1] here and in every csv file; per cent in Markdown only. `std` is
the sample standard deviation over seeds (divided by n - 1), empty for a single seed.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control
from scipy.stats import t as student

from gta.choice import Choices, gta_weights
from gta.methods import BASELINE, parse_method
from gta.params.aggregate import Region
from gta.params.evaluate import LOCALISATION
from gta.params.grid import Grid

SURE = 0.05
"""Adjusted p below which a difference is marked."""
KEYS = ["dataset", "fraction"]
REGIONS: tuple[Region, ...] = get_args(Region)
OF_REGION = (
    "images_{}",
    "share_{}",
    *(f"{name}_{{}}{of}" for name in LOCALISATION for of in ("", "_source")),
)
"""Measures of an object region. images: that have it; share: the object's share of the view; then the
model's localisation and the frozen source's."""
MEASURES = ["top1", "nll", "ece", *(name.format(region) for region in REGIONS for name in OF_REGION)]


def measure(test: pd.DataFrame) -> pd.DataFrame:
    """Test rows -> a row a data set x fraction x method: means over seeds, `<measure>_std` beside them.

    `difference`: a method's top1 minus the baseline's; `kept`: the model's mass over the source's. Both are
    taken seed by seed before mean and std; `pairs`: seeds of which there is a difference.
    """
    plain = test[test["method"] == BASELINE].set_index([*KEYS, "seed"])["top1"].rename("plain")
    rows = test.join(plain, on=[*KEYS, "seed"])
    rows["difference"] = (rows["top1"] - rows["plain"]).where(rows["method"] != BASELINE)
    kept = [f"kept_{region}" for region in REGIONS]
    for region, name in zip(REGIONS, kept, strict=True):
        rows[name] = rows[f"mass_{region}"] / rows[f"mass_{region}_source"]
    groups = rows.groupby([*KEYS, "method"], sort=False)
    sizes = groups.agg(
        train_images=("train_images", "max"),
        test_images=("images", "max"),
        seeds=("seed", "size"),
        pairs=("difference", "count"),
    )
    values = groups[["difference", *MEASURES, *kept]]
    return sizes.join(values.mean()).join(values.std().add_suffix("_std")).reset_index()


def label(measured: pd.DataFrame, grid: Grid, choices: Choices) -> pd.DataFrame:
    """Adds `weight` (of methods that are GTA alone), and to what tables report its `label`, which is its
    family, and the `protocol` behind its weight."""
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
    cells = _cells(measured, ["train_images", "test_images"], ["seeds", "top1", "top1_std"])
    columns = ["label", "name", "weight", "protocol", "seeds", "pairs"]
    columns += ["top1", "top1_std", "difference", "difference_std"]
    rows = _named(measured)
    rows = rows.loc[rows["name"] != BASELINE, [*KEYS, *columns]]
    table = cells.merge(rows, how="left", on=KEYS).rename(columns={"label": "method"})
    table["p"] = paired_test(table["difference"], table["difference_std"], table["pairs"])
    known = table["p"].notna()
    table["p_adjusted"] = np.nan
    table.loc[known, "p_adjusted"] = false_discovery_control(table.loc[known, "p"])
    return table


def paired_test(mean: pd.Series, std: pd.Series, pairs: pd.Series) -> pd.Series:
    """p of the hypothesis that paired differences have mean 0, by Student's t with pairs - 1 degrees of
    freedom.

    NaN for one pair, and where all differences are equal, from which t says nothing.
    """
    t = mean.abs() / (std.where(std > 1e-6) / np.sqrt(pairs))  # measures are stored with six digits
    return pd.Series(2 * student.sf(t, (pairs - 1).where(pairs > 1)), index=mean.index)


def attention(measured: pd.DataFrame) -> pd.DataFrame:
    """A row a region x data set x fraction x reported method: how much attention is on the object."""
    measures = ["share", *(f"{name}{of}" for name in LOCALISATION for of in ("_source", "", "_std"))]
    beside = ["kept", "kept_std", "difference", "difference_std"]
    rows = by_region(_named(measured))
    rows = rows[["region", *KEYS, "images", "seeds", "label", "name", "weight", *measures, *beside]]
    return rows.rename(columns={"label": "method"})


def kept(measured: pd.DataFrame, region: Region) -> pd.DataFrame:
    """A row a cell of a data set that knows its objects: how much of the source's attention on the object
    is kept, beside accuracy."""
    columns = [*KEYS, "method", "weight", "region", "seeds", "kept", "kept_std", "top1", "top1_std"]
    return preferred(by_region(measured), region)[columns]


def calibration(measured: pd.DataFrame) -> pd.DataFrame:
    """A row a data set x fraction x reported method: nll in nats, ece in [0, 1], over the test images."""
    rows = _named(measured)[[*KEYS, "label", "name", "seeds", "nll", "nll_std", "ece", "ece_std"]]
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
