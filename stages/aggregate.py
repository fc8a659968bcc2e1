"""Stage `aggregate`: every cell's measurements as tables, figures, and metrics."""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from gta import figures, report, segment_tables, tables, texts
from gta.atomic import atomic_file, atomic_folder
from gta.errors import run
from gta.methods import BASELINE
from gta.params.aggregate import Aggregate
from gta.params.grid import Grid
from gta.params.section import PARAMS, load
from gta.params.segment import Segment
from gta.pictures import Cell, draw_pictures
from gta.report import Picture, Section, Table
from gta.segment_pictures import draw_segments

SEGMENTED = (
    "in orange the patches that hold segment.keep of the attention, by the head that is best on the largest "
    "object, of one seed; objects are outlined."
)
SHOWN = "the [CLS] attention, the largest over heads, of one seed; the object outlined where it is known."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs", type=Path, required=True, help="folder of <dataset>/<fraction>/<method>/seeds.csv"
    )
    parser.add_argument(
        "--segments",
        type=Path,
        required=True,
        help="folder of <on>/<dataset>/<fraction>/<method>/summary.csv",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for tables, figures, metrics.json")
    arguments = parser.parse_args()
    settings, grid = load(Aggregate, "aggregate"), load(Grid, "grid")
    long, parameters = tables.read_cells(arguments.runs, grid), PARAMS.read_text(encoding="utf-8")
    pictures = attention_pictures(arguments.runs, long, grid, settings)
    segments = segmentation(arguments.segments, load(Segment, "segment").on, long, grid, settings)
    files = aggregate(long, grid, settings, pictures, report.provenance(Path()), parameters, segments)
    for name, content in files.items():  # everything is made before anything is written
        with atomic_file(arguments.output / name) as partial:
            partial.write_bytes(content)
    with atomic_folder(arguments.output / "pictures") as folder:
        for name, kinds in (pictures | segments.pictures).items():
            for kind, content in kinds.items():
                (folder / f"{name}.{kind}").write_bytes(content)


def attention_pictures(
    runs: Path, long: pd.DataFrame, grid: Grid, settings: Aggregate
) -> dict[str, dict[str, bytes]]:
    """Data set -> format -> picture: baseline and reported GTA at the smallest and the largest fraction."""
    choices = tables.choose(long[long["split"] == "val"], grid, settings.weight)
    found = {}
    for dataset in grid.datasets:
        cells = shown_cells(dataset, grid, choices)
        if drawn := draw_pictures(runs, dataset, cells, grid.seeds[0], settings):
            found[dataset] = drawn
    return found


def shown_cells(dataset: str, grid: Grid, choices: dict[tuple[str, int, str], tables.Choice]) -> list[Cell]:
    """Baseline and reported GTA at the smallest and the largest fraction."""
    return [
        Cell(title, fraction, method)
        for fraction in dict.fromkeys((min(grid.fractions), max(grid.fractions)))
        for title, method in segment_tables.reported_methods(dataset, fraction, grid, choices).items()
        if title in (BASELINE, tables.GTA)
    ]


class Segments(NamedTuple):
    """How well attention segments."""

    table: pd.DataFrame
    """Of `segment_tables.read_segments`."""
    pictures: dict[str, dict[str, bytes]]
    """`<on>-<dataset>` -> format -> picture; a name that no data set can have."""


def segmentation(
    folder: Path, on: list[str], long: pd.DataFrame, grid: Grid, settings: Aggregate
) -> Segments:
    """The sets `on`, segmented by the source and the reported models."""
    choices = tables.choose(long[long["split"] == "val"], grid, settings.weight)
    table = segment_tables.read_segments(folder, on, grid, choices)
    pictures = {}
    for objects, dataset in product(on, grid.datasets):
        cells = shown_cells(dataset, grid, choices)
        if drawn := draw_segments(folder / objects, dataset, cells, grid.seeds[0], settings):
            pictures[f"{objects}-{dataset}"] = drawn
    return Segments(table, pictures)


def aggregate(
    long: pd.DataFrame,
    grid: Grid,
    settings: Aggregate,
    pictures: dict[str, dict[str, bytes]],
    provenance: dict[str, str],
    parameters: str,
    segments: Segments,
) -> dict[str, bytes]:
    """All rows of the grid -> file names and contents; the last four are shown in the report."""
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
    page = report.render(
        "Fine-tuning with guided attention",
        f"{', '.join(grid.datasets)}; {len(grid.fractions)} fractions, {len(grid.methods)} methods, "
        f"{len(grid.seeds)} seeds",
        [
            *report_sections(compared, attention, drawn, pictures, settings.decimals),
            *segment_section(segments, settings.decimals),
        ],
        provenance,
        parameters,
    )
    return {
        "report.html": page.encode(),
        "long.csv": csv(long),
        "table.csv": csv(compared),
        "table.md": texts.accuracy_markdown(compared, settings.decimals).encode(),
        "table.tex": texts.accuracy_latex(accuracy, compared, settings.decimals).encode(),
        "attention.csv": csv(attention),
        "attention.md": texts.attention_markdown(attention, settings.decimals).encode(),
        "segmentation.csv": csv(segments.table),
        "segmentation.md": segment_tables.segmentation_markdown(segments.table, settings.decimals).encode(),
        "metrics.json": (json.dumps(tables.metrics(measured, settings.region), indent=2) + "\n").encode(),
        "accuracy.csv": csv(accuracy),
        "sensitivity.csv": csv(sensitivity),
        **{f"{name}.{kind}": file for name, kinds in drawn.items() for kind, file in kinds.items()},
    }


def report_sections(
    compared: pd.DataFrame,
    attention: pd.DataFrame,
    drawn: dict[str, dict[str, bytes]],
    pictures: dict[str, dict[str, bytes]],
    decimals: int,
) -> list[Section]:
    """What the report shows, in its order."""

    def picture(name: str, caption: str) -> Picture:
        return Picture(drawn[name]["svg"], caption)

    objects = texts.attention_rows(attention, decimals)
    looks = [Picture(kinds["svg"], f"{dataset}: {SHOWN}") for dataset, kinds in pictures.items()]
    if objects:
        looks.append(picture("attention", "Attention mass on the object against GTA's weight."))
    return [
        Section(
            "Test accuracy",
            texts.ACCURACY,
            [
                picture("comparison", "Every method's difference to the baseline."),
                picture("accuracy", "Accuracy against the share of the training images; dots are seeds."),
                picture("sensitivity", "Accuracy against GTA's weight; the ring is the reported one."),
            ],
            [Table("", texts.accuracy_rows(compared, decimals))],
        ),
        Section(
            "Attention on the object",
            texts.ATTENTION if objects else texts.NO_OBJECTS,
            looks,
            [Table(title, rows) for title, rows in objects.items()],
        ),
    ]


def segment_section(segments: Segments, decimals: int) -> list[Section]:
    """The report's section on segmentation; none where nothing is segmented."""
    if segments.table.empty:
        return []
    rows = segment_tables.segmentation_rows(segments.table, decimals)
    pictures = []
    for name, kinds in segments.pictures.items():
        on, _, dataset = name.partition("-")
        pictures.append(Picture(kinds["svg"], f"Images of {on}, models trained on {dataset}: {SEGMENTED}"))
    return [Section("Attention as a segmentation", segment_tables.SEGMENTATION, pictures, [Table("", rows)])]


def csv(table: pd.DataFrame) -> bytes:
    """Six digits, as in the cells' files."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()


if __name__ == "__main__":
    run(main)
