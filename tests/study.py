"""A grid on disk, as `evaluate` leaves it, and what `aggregate` makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

import stages.aggregate
from gta import tables
from gta.choice import choose, shown
from gta.evaluated import read_cells
from gta.methods import parse_method
from gta.params.aggregate import Aggregate
from gta.params.evaluate import LOCALISATION, PER_HEAD
from gta.params.grid import Grid
from gta.parts import Study
from gta.segment_tables import read_segments

FILES = [
    *(f"{name}.csv" for name in ("confusion", "cost", "layers", "leaks", "long", "segmentation", "table")),
    *(f"{name}.{kind}" for name in ("comparison",) for kind in ("png", "svg")),
    *(
        f"{name}.{kind}"
        for name in ("accuracy", "attention", "curves", "kept", "reliability", "sensitivity")
        for kind in ("csv", "png", "svg")
    ),
    *("attention.md", "leaks.md", "metrics.json", "report.html", "segmentation.md", "table.md", "table.tex"),
    *(f"{folder}/pets.{kind}" for folder in ("confusion", "layers") for kind in ("png", "svg")),
]
"""Of a grid of one data set, called pets, of which no images are shown."""
SETTINGS = Aggregate(weight=None, region="mask", decimals=1, width=7.0, height=1.5, dpi=50)
TEST = {"baseline": [0.5, 0.6, 0.7], "gta-0.1": [0.6, 0.6, 0.9], "gta-1": [0.9, 0.9, 0.9]}
VAL = {"baseline": [0.9, 0.9, 0.9], "gta-0.1": [0.5, 0.5, 0.5], "gta-1": [0.4, 0.4, 0.6]}
MASS = {"baseline": [0.3, 0.4, 0.5], "gta-0.1": [0.7, 0.7, 0.7], "gta-1": [0.8, 0.8, 0.8]}
LEAKS = pd.DataFrame(
    {"dataset": ["pets"], "kind": ["train and test"], "first": ["a.jpg"], "second": ["b.jpg"]}
)
Scores = dict[str, list[float]]


def grid(
    methods: Any = tuple(TEST), fractions: tuple[int, ...] = (15,), seeds: int = 3, **changes: Any
) -> Grid:
    values = {
        "datasets": ["pets"],
        "fractions": list(fractions),
        "methods": list(methods),
        "seeds": [*range(seeds)],
    }
    return Grid.model_validate(values | changes)


def seed_row(
    split: str, seed: int, top1: float, mass: float | None = None, images: int = 10
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "train_images": 6,
        "val_images": 10,
        "seed": seed,
        "split": split,
        "images": images,
    }
    row |= {"top1": top1, "top5": 1, "mean_class": top1, "nll": 1.5, "ece": 0.1}
    for region, known in (("box", False), ("mask", mass is not None)):
        values = {f"{name}_{region}{of}": 0.4 for name in LOCALISATION for of in ("", "_source")}
        values |= {f"share_{region}": 0.25, f"mass_{region}": mass, f"mass_{region}_source": 0.75}
        values |= {f"hit_{region}": 0.5, f"hit_{region}_source": 1.0}
        row |= {f"images_{region}": images if known else 0}
        row |= {name: value if known else None for name, value in values.items()}
    return row


def write_cells(folder: Path, of: Grid, test: Scores = TEST, val: Scores = VAL, images: int = 10) -> None:
    """Every cell of the grid, as the `evaluate` stage writes it; no validation rows where `val` has none."""
    for dataset in of.datasets:
        for fraction in of.fractions:
            for method in of.methods:
                place = {"dataset": dataset, "fraction": fraction, "method": method}
                place |= {"weight": parse_method(method).weights.get("gta")}
                rows = [seed_row("val", s, val[method][s], images=images) for s in of.seeds if method in val]
                rows += [
                    seed_row("test", s, test[method][s], MASS.get(method, [0.6] * 3)[s]) for s in of.seeds
                ]
                path = folder / dataset / str(fraction) / method / "seeds.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                pd.DataFrame([place | row for row in rows]).to_csv(path, index=False, float_format="%.6g")
                write_details(path.parent, of, method)


def write_details(folder: Path, of: Grid, method: str) -> None:
    """A cell's other files: 2 layers of 3 heads, 2 epochs, 4 images of 2 classes."""
    heads = [
        {"model": model, "layer": layer, "head": head}
        | dict.fromkeys(PER_HEAD, 0.0 if model == "source" else 1 + layer + head / 10)
        for model in ("source", *map(str, of.seeds))
        for layer in range(2)
        for head in range(3)
    ]
    pd.DataFrame(heads).assign(mass_box=None).to_csv(folder / "layers.csv", index=False)
    history = [
        {"seed": seed, "epoch": epoch, "lr": 0.1, "cross_entropy": 2 / epoch + seed}
        | ({"gta": 0.5} if "gta" in method else {})
        | {"loss": 2 / epoch + seed, "train_top1": 0.25 * epoch}
        for seed in of.seeds
        for epoch in (1, 2)
    ]
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    images = pd.DataFrame(
        {"label": [0, 0, 1, 1], "predicted": [0, 1, 1, 1], "confidence": [0.9, 0.6, 0.6, 1]}
    )
    parts = [images.assign(seed=seed, split=split) for seed in of.seeds for split in ("val", "test")]
    pd.concat(parts).to_csv(folder / "predictions.csv", index=False)
    pd.DataFrame({"label": [0, 1], "class": ["cat", "dog"]}).to_csv(folder / "classes.csv", index=False)


def study_of(folder: Path, of: Grid, state: Path = Path("none")) -> Study:
    """What `aggregate` reads of the whole grid."""
    long = read_cells(folder, of)
    choices = choose(long[long["split"] == "val"], of, None)
    measured = tables.label(tables.measure(long[long["split"] == "test"]), of, choices)
    cells, segmented = shown(long, of, choices), read_segments(Path("none"), [], of, choices)[0]
    return Study(folder, state, of, SETTINGS, 10, long, measured, cells, Path("none"), segmented, LEAKS)


def files_of(folder: Path, of: Grid) -> dict[str, bytes]:
    """What `aggregate` makes of the whole grid."""
    return stages.aggregate.aggregate(study_of(folder, of), [], {}, "")
