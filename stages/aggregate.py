"""Stage `aggregate`: every cell's measurements as tables, figures, and metrics."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from gta import figures, tables, texts
from gta.atomic import atomic_file
from gta.errors import run
from gta.params.aggregate import Aggregate
from gta.params.grid import Grid
from gta.params.section import load


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
        "table.md": (texts.ACCURACY + texts.accuracy_markdown(compared, settings.decimals)).encode(),
        "table.tex": texts.accuracy_latex(accuracy, compared, settings.decimals).encode(),
        "attention.csv": csv(attention),
        "attention.md": (texts.ATTENTION + texts.attention_markdown(attention, settings.decimals)).encode(),
        "metrics.json": (json.dumps(tables.metrics(measured, settings.region), indent=2) + "\n").encode(),
        "accuracy.csv": csv(accuracy),
        "sensitivity.csv": csv(sensitivity),
        **{f"{name}.{kind}": file for name, kinds in drawn.items() for kind, file in kinds.items()},
    }


def csv(table: pd.DataFrame) -> bytes:
    """Six digits, as in the cells' files."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()


if __name__ == "__main__":
    run(main)
