"""Stage `aggregate`: every cell's measurements as tables, figures, and metrics."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from gta import figures, tables
from gta.atomic import atomic_file
from gta.errors import run
from gta.methods import parse_method
from gta.params.aggregate import Aggregate
from gta.params.evaluate import LOCALISATION
from gta.params.grid import Grid
from gta.params.section import load

ACCURACY = """\
# Test accuracy

Top-1 in per cent, mean ± sample standard deviation over seeds. The difference to the baseline is taken seed
by seed; p is that of a paired t-test over seeds, adjusted for all rows of this table (Benjamini-Hochberg):
with three seeds, only large and steady differences have a small one. λ, the weight of the penalty, was chosen
by `validation (n images)`: the highest mean accuracy over seeds on n images kept from the training images, so
that no test image had a say; or it was `given`: set in the parameters, or the grid's only one.

"""
ATTENTION = """\
# Attention on the object

Per cent, means ± sample standard deviations over seeds, on the test images. Mass: the share of the [CLS]
token's attention to patches that lies inside the object. Kept: that over the frozen source's. Peak: how
often the most attended patch is on the object. The strongest patches that hold evaluate.keep of the
attention make a box and a segmentation. CorLoc: how often the box around their largest group has an
intersection over union of 0.5 or more with the object's. Jaccard: mean over images of the segmentation's
index with the object; of the heads together, of the head that is the best on each very image (DINO's
protocol), and of one head that was chosen on the validation images.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs", type=Path, required=True, help="folder of <dataset>/<fraction>/<method>/seeds.csv"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for tables, figures, metrics.json")
    arguments = parser.parse_args()
    settings, grid = load(Aggregate, "aggregate"), load(Grid, "grid")
    files = aggregate(tables.read_cells(arguments.runs, grid), grid, settings)
    for name, content in files.items():  # everything is made before anything is written
        with atomic_file(arguments.output / name) as partial:
            partial.write_bytes(content)


def aggregate(long: pd.DataFrame, grid: Grid, settings: Aggregate) -> dict[str, bytes]:
    """All rows of the grid -> file names and contents."""
    choices = tables.choose(long[long["split"] == "val"], grid, settings.weight)
    test = long[long["split"] == "test"]
    measured = tables.label(tables.measure(test), grid, choices)
    compared, attention = tables.comparison(measured), tables.attention(measured)
    accuracy, sensitivity = tables.accuracy(measured), tables.sensitivity(measured, settings.region)
    names = measured.set_index([*tables.KEYS, "method"])["label"].rename("name")
    dots = (
        test.join(names, on=[*tables.KEYS, "method"])
        .drop(columns="method")
        .rename(columns={"name": "method"})
    )
    drawn = {
        "comparison": figures.draw_comparison(compared, settings),
        "accuracy": figures.draw_accuracy(accuracy, dots, settings),
        "sensitivity": figures.draw_sensitivity(sensitivity, settings),
        "attention": figures.draw_attention(sensitivity, settings),
    }
    return {
        "long.csv": csv(long),
        "table.csv": csv(compared),
        "table.md": (ACCURACY + accuracy_markdown(compared, settings.decimals)).encode(),
        "attention.csv": csv(attention),
        "attention.md": (ATTENTION + attention_markdown(attention, settings.decimals)).encode(),
        "metrics.json": (json.dumps(tables.metrics(measured, settings.region), indent=2) + "\n").encode(),
        "accuracy.csv": csv(accuracy),
        "sensitivity.csv": csv(sensitivity),
        **{f"{name}.{kind}": file for name, kinds in drawn.items() for kind, file in kinds.items()},
    }


def csv(table: pd.DataFrame) -> bytes:
    """Six digits, as in the cells' files."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()


def accuracy_markdown(table: pd.DataFrame, decimals: int) -> str:
    rows = [
        {
            "data set": row["dataset"],
            "training images": f"{row['train_images']} ({row['fraction']} %)",
            "seeds": row["seeds"],
            "baseline": percent(row["baseline_top1"], row["baseline_top1_std"], decimals),
            "method": row["method"] if pd.notna(row["method"]) else "–",
            "λ": weights(row["name"]),
            "accuracy": percent(row["top1"], row["top1_std"], decimals),
            "difference": percent(row["difference"], row["difference_std"], decimals, "+"),
            "p": f"{row['p_adjusted']:.2g}" if pd.notna(row["p_adjusted"]) else "–",
            "λ chosen by": row["protocol"] if pd.notna(row["protocol"]) else "–",
        }
        for row in table.to_dict("records")
    ]
    return markdown(rows)


def attention_markdown(table: pd.DataFrame, decimals: int) -> str:
    """A table a region; first of each data set what an even spread and the frozen source reach."""
    parts = []
    for region, part in table.groupby("region", sort=False):
        rows: list[dict[str, str]] = []
        for dataset, cells in part.groupby("dataset", sort=False):
            first = cells.iloc[0].to_dict()
            source = {name: first[f"{name}_source"] for name in LOCALISATION}
            rows.append(
                _attention_row(
                    {"dataset": dataset, "method": "even spread", "mass": first["share"]}, decimals
                )
            )
            rows.append(_attention_row({"dataset": dataset, "method": "frozen source", **source}, decimals))
            rows += [_attention_row(row, decimals) for row in cells.to_dict("records")]
        parts.append(f"## The object's {region}\n\n{markdown(rows)}")
    return "\n".join(parts) or "No data set of the grid knows where its objects are.\n"


def _attention_row(row: dict[Any, Any], decimals: int) -> dict[str, str]:
    def cell(name: str, sign: str = "") -> str:
        return percent(row.get(name, math.nan), row.get(f"{name}_std"), decimals, sign)

    return {
        "data set": row["dataset"],
        "training images": f"{row['fraction']} %" if "fraction" in row else "–",
        "method": row["method"],
        "λ": weights(row.get("name", math.nan)),
        "mass": cell("mass"),
        "kept": cell("kept"),
        "peak": cell("hit"),
        "CorLoc": cell("corloc"),
        "Jaccard": cell("jaccard"),
        "best head": cell("jaccard_best"),
        "chosen head": cell("jaccard_chosen"),
        "accuracy over baseline": cell("difference", "+"),
    }


def weights(name: str | float) -> str:
    """The weights of a method of the grid, in the order of its penalties; `–` where there is none."""
    values = parse_method(name).weights.values() if isinstance(name, str) else []
    return ", ".join(f"{weight:g}" for weight in values) or "–"


def percent(mean: float, std: float | None, decimals: int, sign: str = "") -> str:
    """Shares in [0, 1] as `81.2 ± 0.4`; `–` for what is not known, such as the std of one seed."""
    if math.isnan(mean):
        return "–"
    spread = "" if std is None else " ± –" if math.isnan(std) else f" ± {100 * std:.{decimals}f}"
    rounded = round(100 * mean, decimals) + 0.0  # no minus before a zero
    return f"{rounded:{sign}.{decimals}f}{spread}".replace("-", "−")


def markdown(rows: list[dict[str, str]]) -> str:
    """A GitHub table."""
    return str(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)) + "\n"


if __name__ == "__main__":
    run(main)
