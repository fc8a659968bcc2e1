"""The parts of the report: of each a section of the page, and the files with the same content."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from gta import confusion, cost, curves, figures, layers, reliability, segment_tables, tables, texts
from gta.choice import Cell
from gta.leak_tables import LEAKS, NONE, leaks_markdown, leaks_rows
from gta.params.aggregate import Aggregate
from gta.params.grid import Grid
from gta.pictures import draw_pictures
from gta.report import Picture, Section, Table
from gta.segment_pictures import draw_segments

SHOWN = "the [CLS] attention, the largest over heads, of one seed; the object outlined where it is known."
SEGMENTED = (
    "in orange the patches that hold segment.keep of the attention, by the head that is best on the largest "
    "object, of one seed; objects are outlined."
)
FOLDERS = ("pictures", "layers", "confusion")
"""Of figures, one a data set."""
Files = dict[str, bytes]


class Study(NamedTuple):
    """What the parts are made of."""

    runs: Path
    """What `evaluate` has written."""
    state: Path
    """What `finetune` keeps of each seed."""
    grid: Grid
    settings: Aggregate
    bins: int
    """Of confidence."""
    long: pd.DataFrame
    """Of `evaluated.read_cells`."""
    measured: pd.DataFrame
    """Of `tables.label`."""
    shown: dict[str, list[Cell]]
    """Of `choice.shown`."""
    segments: Path
    """What `segment` has written."""
    segmented: pd.DataFrame
    """Of `segment_tables.read_segments`."""
    leaks: pd.DataFrame
    """Of `leak_tables.read_leaks`."""

    @property
    def cells(self) -> list[Cell]:
        """All that are shown."""
        return [cell for cells in self.shown.values() for cell in cells]


class Part(NamedTuple):
    """A section, and file names with their contents."""

    section: Section
    files: Files


def accuracy(study: Study) -> Part:
    """What all of it is about."""
    measured, settings = study.measured, study.settings
    compared, reported = tables.comparison(measured), tables.accuracy(measured)
    sensitivity = tables.sensitivity(measured, settings.region)
    names = measured.set_index([*tables.KEYS, "method"])["label"].rename("name")
    seeds = study.long[study.long["split"] == "test"].join(names, on=[*tables.KEYS, "method"])
    dots = seeds.drop(columns="method").rename(columns={"name": "method"})
    drawn = {
        "comparison": figures.draw_comparison(compared, settings),
        "accuracy": figures.draw_accuracy(reported, dots, settings),
        "sensitivity": figures.draw_sensitivity(sensitivity, settings),
    }
    metrics = tables.metrics(measured, settings.region)
    section = Section(
        "Test accuracy",
        texts.ACCURACY,
        [
            Picture(drawn["comparison"]["svg"], "Every method's difference to the baseline."),
            Picture(
                drawn["accuracy"]["svg"], "Accuracy against the share of the training images; dots are seeds."
            ),
            Picture(
                drawn["sensitivity"]["svg"], "Accuracy against GTA's weight; the ring is the reported one."
            ),
        ],
        [Table("", texts.accuracy_rows(compared, settings.decimals))],
    )
    files = {
        "long.csv": csv(study.long),
        "table.csv": csv(compared),
        "table.md": texts.accuracy_markdown(compared, settings.decimals).encode(),
        "table.tex": texts.accuracy_latex(reported, compared, settings.decimals).encode(),
        "metrics.json": (json.dumps(metrics, indent=2) + "\n").encode(),
        "accuracy.csv": csv(reported),
        "sensitivity.csv": csv(sensitivity),
    }
    return Part(section, files | named(drawn))


def attention(study: Study) -> Part:
    """Where the last block looks."""
    settings, region = study.settings, study.settings.region
    table, kept = tables.attention(study.measured), tables.kept(study.measured, region)
    drawn = {
        "attention": figures.draw_attention(tables.sensitivity(study.measured, region), settings),
        "kept": figures.draw_kept(kept, settings),
    }
    pictures = of_each(study, lambda cells: draw_pictures(study.runs, cells, _seed(study, cells), settings))
    objects = texts.attention_rows(table, settings.decimals)
    looks = [Picture(kinds["svg"], f"{dataset}: {SHOWN}") for dataset, kinds in pictures.items()]
    if objects:
        looks += [
            Picture(drawn["attention"]["svg"], "Attention mass on the object against GTA's weight."),
            Picture(drawn["kept"]["svg"], "Accuracy against the share of the source's mass that is kept."),
        ]
    section = Section(
        "Attention on the object",
        texts.ATTENTION if objects else texts.NO_OBJECTS,
        looks,
        [Table(title, rows) for title, rows in objects.items()],
    )
    files = {
        "attention.csv": csv(table),
        "attention.md": texts.attention_markdown(table, settings.decimals).encode(),
        "kept.csv": csv(kept),
    }
    return Part(section, files | named(drawn) | in_folder("pictures", pictures))


def _seed(study: Study, cells: list[Cell]) -> int:
    """The first of the grid that all of the cells have; if there is none, the grid's first."""
    rows = study.long.set_index(["dataset", "fraction", "method"])["seed"]
    has = [set(rows.loc[[cell[1:]]]) for cell in cells]
    return next(
        (seed for seed in study.grid.seeds if all(seed in seeds for seeds in has)), study.grid.seeds[0]
    )


def segmentation(study: Study) -> Part:
    """How well attention segments other images."""
    table, decimals = study.segmented, study.settings.decimals
    known = set(table[["on", "dataset", "fraction", "name"]].itertuples(index=False, name=None))
    drawn, pictures = {}, []
    for on in table.loc[table["method"] == "source", "on"]:
        for dataset, shown in study.shown.items():
            cells = [cell for cell in shown if (on, *cell[1:]) in known]
            if not cells:
                continue
            seed = _seed(study, cells)
            if kinds := draw_segments(study.segments / on, dataset, cells, seed, study.settings):
                drawn[f"{on}-{dataset}"] = kinds  # a name that no data set can have
                caption = f"Images of {on}, models trained on {dataset}: {SEGMENTED}"
                pictures.append(Picture(kinds["svg"], caption))
    section = Section(
        "Attention as a segmentation",
        segment_tables.NO_SETS if table.empty else segment_tables.SEGMENTATION,
        pictures,
        [] if table.empty else [Table("", segment_tables.segmentation_rows(table, decimals))],
    )
    files = {
        "segmentation.csv": csv(table),
        "segmentation.md": segment_tables.segmentation_markdown(table, decimals).encode(),
    }
    return Part(section, files | in_folder("pictures", drawn))


def by_layer(study: Study) -> Part:
    """Where every head of every block looks."""
    table = layers.layer_table(study.runs, study.cells, study.grid.seeds)
    region, settings = study.settings.region, study.settings
    drawn = {
        dataset: layers.draw_layers(table[table["dataset"] == dataset], region, settings)
        for dataset in table["dataset"].unique()
    }
    pictures = [Picture(kinds["svg"], f"{dataset}, by block.") for dataset, kinds in drawn.items()]
    section = Section("Attention by layer", texts.LAYERS, pictures, [])
    return Part(section, {"layers.csv": csv(table)} | in_folder("layers", drawn))


def training(study: Study) -> Part:
    """How the loss fell."""
    table = curves.curve_table(study.runs, study.cells, study.grid.seeds)
    drawn = {"curves": curves.draw_curves(table, study.settings)}
    pictures = [Picture(drawn["curves"]["svg"], "Loss, its components and accuracy by epoch.")]
    return Part(Section("Training", texts.CURVES, pictures, []), {"curves.csv": csv(table)} | named(drawn))


def calibration(study: Study) -> Part:
    """How far a model's confidence is to be believed."""
    table = reliability.reliability_table(study.runs, study.cells, study.grid.seeds, study.bins)
    drawn = {"reliability": reliability.draw_reliability(table, study.settings)}
    rows = texts.calibration_rows(tables.calibration(study.measured), study.settings.decimals)
    pictures = [Picture(drawn["reliability"]["svg"], "Accuracy against confidence.")]
    section = Section("Calibration", texts.RELIABILITY, pictures, [Table("", rows)])
    return Part(section, {"reliability.csv": csv(table)} | named(drawn))


def confusions(study: Study) -> Part:
    """Which classes are taken for one another."""
    table = confusion.confusion_table(study.runs, study.cells, study.grid.seeds)
    names = confusion.class_names(study.runs, study.cells)
    drawn = {
        dataset: confusion.draw_confusion(table[table["dataset"] == dataset], named, study.settings)
        for dataset, named in names.items()
    }
    pictures = [Picture(kinds["svg"], f"{dataset}.") for dataset, kinds in drawn.items()]
    rows = confusion.confusion_rows(table, study.settings.decimals)
    section = Section(
        "Confusions", texts.CONFUSION, pictures, [Table(title, of) for title, of in rows.items()]
    )
    return Part(section, {"confusion.csv": csv(table)} | in_folder("confusion", drawn))


def twice(study: Study) -> Part:
    """Which pictures are in training and test."""
    tables_shown = [] if study.leaks.empty else [Table("", leaks_rows(study.leaks))]
    text = f"{LEAKS}\n{NONE}" if study.leaks.empty else LEAKS
    section = Section("The same picture twice", text, [], tables_shown)
    return Part(section, {"leaks.csv": csv(study.leaks), "leaks.md": leaks_markdown(study.leaks).encode()})


def spent(study: Study) -> Part:
    """What it cost on this machine; no output of the pipeline, as it differs from run to run."""
    table = cost.cost_table(study.runs, study.state, study.long)
    rows = cost.cost_rows(table, study.measured, study.settings.decimals)
    return Part(Section("Cost of training", texts.COST, [], [Table("", rows)]), {"cost.csv": csv(table)})


PARTS: tuple[Callable[[Study], Part], ...] = (
    accuracy,
    attention,
    segmentation,
    by_layer,
    training,
    calibration,
    confusions,
    twice,
    spent,
)
"""In the page's order."""


def of_each(study: Study, draw: Callable[[list[Cell]], Files]) -> dict[str, Files]:
    """Data set -> format -> file, where there is one."""
    drawn = {dataset: draw(cells) for dataset, cells in study.shown.items()}
    return {dataset: kinds for dataset, kinds in drawn.items() if kinds}


def named(drawn: dict[str, Files]) -> Files:
    """Figures as files."""
    return {f"{name}.{kind}": file for name, kinds in drawn.items() for kind, file in kinds.items()}


def in_folder(folder: str, drawn: dict[str, Files]) -> Files:
    """Figures as files of a folder."""
    return {f"{folder}/{name}": file for name, file in named(drawn).items()}


def csv(table: pd.DataFrame) -> bytes:
    """Six digits, as in the cells' files."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()
