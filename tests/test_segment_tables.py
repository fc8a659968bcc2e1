"""The table of segmentations by hand, what is wrong with a cell, the figure, and the report's section."""

from __future__ import annotations

import io
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from repository import ROOT
from ruamel.yaml import YAML
from study import LEAKS, SETTINGS, grid, write_cells
from test_figures import texts

import stages.aggregate
from gta import segment_tables
from gta.choice import GTA, Choice
from gta.errors import InputError
from gta.params.section import read_params
from gta.segment_pictures import coloured
from gta.segment_tables import FROZEN, read_segments

SCORES = {"baseline": [0.2, 0.3, 0.4], "gta-0.1": [0.5, 0.5, 0.8], "gta-1": [0.9, 0.9, 0.9]}


def write_segments(folder: Path) -> Path:
    """What the stages give for the set `voc` and the cells of `grid()`."""
    counts = {"images": 5, "empty_images": 1, "void_images": 0, "objects": 7}
    cells = {f"pets/15/{method}": dict(enumerate(scores)) for method, scores in SCORES.items()}
    for place, scores in {FROZEN: {"source": 0.6}, **cells}.items():
        (folder / "voc" / place).mkdir(parents=True)
        summary = [
            {"model": model, **counts, "best_head": score, "chosen_head": score / 2, "mean_heads": 0.1}
            for model, score in scores.items()
        ]
        pd.DataFrame(summary).to_csv(folder / "voc" / place / "summary.csv", index=False)
        patches: dict[str, Any] = {str(model): np.eye(4, dtype=bool)[None].repeat(2, 0) for model in scores}
        np.savez(folder / "voc" / place / "patches.npz", **patches)
    mask = np.zeros((2, 8, 8), np.uint8)
    mask[:, 1:4, 1:4], mask[:, 5:7, 5:7], mask[:, 7] = 1, 2, 255
    np.savez(folder / "voc" / FROZEN / "views.npz", image=np.full((2, 3, 8, 8), 99, np.uint8), mask=mask)
    return folder


def read(folder: Path) -> pd.DataFrame:
    return read_segments(folder, ["voc"], grid(), {("pets", 15, GTA): Choice("gta-0.1", "given")})[0]


def test_the_table_by_hand(tmp_path: Path) -> None:
    table = read(write_segments(tmp_path))
    assert table["method"].tolist() == ["source", "baseline", "GTA"]
    assert table["seeds"].tolist() == [1, 3, 3]
    assert table["best_head"].tolist() == pytest.approx([0.6, 0.3, 0.6])
    assert table["best_head_std"].tolist()[1:] == pytest.approx([0.1, math.sqrt(0.03)])
    assert math.isnan(table["best_head_std"][0])
    text = segment_tables.segmentation_markdown(table, 1).splitlines()[-3:]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text]
    assert lines == [
        ["voc", "frozen source", "–", "–", "60.0", "30.0", "10.0", "5", "1", "0", "7"],
        [*("voc", "baseline", "pets, 15 %", "–", "30.0 ± 10.0", "15.0 ± 5.0"), *("10.0 ± 0.0", *"5107")],
        [*("voc", "GTA", "pets, 15 %", "0.1", "60.0 ± 17.3", "30.0 ± 8.7"), *("10.0 ± 0.0", *"5107")],
    ]


def test_a_study_may_segment_nothing(tmp_path: Path) -> None:
    table, _ = read_segments(tmp_path, [], grid(), {})
    assert list(table.columns) == segment_tables.COLUMNS
    assert segment_tables.NO_SETS in segment_tables.segmentation_markdown(table, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[rows["model"] != 1], "expected rows of 0, 1, 2, found 0, 2"),
        (
            lambda rows: rows.drop(columns="chosen_head"),
            "expected the columns chosen_head, found model, images",
        ),
        (lambda rows: rows.iloc[:0, :0], "not a table"),
    ],
)
def test_a_damaged_cell_is_named(tmp_path: Path, change: Any, message: str) -> None:
    path = write_segments(tmp_path) / "voc/pets/15/gta-0.1/summary.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(InputError, match=rf"gta-0\.1/summary\.csv: {message}"):
        read(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"gta-0\.1/summary\.csv: no such file"):
        read(tmp_path)


@pytest.mark.parametrize("gone", [FROZEN, "pets/15/gta-0.1", "."])
def test_aggregate_shows_table_and_figure_and_of_a_part_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    write_cells(tmp_path / "runs", grid())
    write_segments(tmp_path / "segments")
    committed = read_params(ROOT / "params.yaml")
    sections = {"grid": grid().model_dump(), "aggregate": SETTINGS.model_dump()}
    (tmp_path / "leaks").mkdir()
    LEAKS.drop(columns="dataset").to_csv(tmp_path / "leaks/pets.csv", index=False)
    sections |= {"segment": committed["segment"] | {"on": ["voc"]}, "evaluate": committed["evaluate"]}
    YAML(typ="safe", pure=True).dump(sections, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    arguments = ["--runs", "runs", "--segments", "segments", "--leaks", "leaks", "--state", "state"]
    arguments.append("--output")
    monkeypatch.setattr("sys.argv", ["aggregate", *arguments, "results"])
    stages.aggregate.main()
    page = (tmp_path / "results/report.html").read_text()
    assert "Attention as a segmentation" in page
    assert "Images of voc, models trained on pets" in page
    pictures = tmp_path / "results/pictures"
    assert sorted(path.name for path in pictures.iterdir()) == ["voc-pets.png", "voc-pets.svg"]
    titles = ["image", "ground truth", "frozen source", "baseline, 15 %", "GTA, 15 %"]
    assert texts((pictures / "voc-pets.svg").read_bytes()) == titles
    width, _ = Image.open(io.BytesIO((pictures / "voc-pets.png").read_bytes())).size
    assert width == int(SETTINGS.dpi * SETTINGS.width)
    shutil.rmtree(tmp_path / "segments/voc" / gone)
    with pytest.raises(InputError, match="no such file"):
        stages.aggregate.main()
    monkeypatch.setattr("sys.argv", ["aggregate", *arguments, "part", "--partial"])
    stages.aggregate.main()
    missing = (tmp_path / "part/partial.txt").read_text().splitlines()
    every = [f"segments/voc/{place}" for place in (FROZEN, "pets/15/baseline", "pets/15/gta-0.1")]
    assert missing == [place for place in every if gone == "." or place.endswith(gone)]
    assert [f"missing: {name}" for name in missing] == capsys.readouterr().err.splitlines()
    assert len(pd.read_csv(tmp_path / "part/segmentation.csv")) == 3 - len(missing)


def test_a_mask_in_colours() -> None:
    colours = coloured(np.array([[0, 1], [2, 255]], np.uint8))
    assert colours[0, 0, 3] == 0
    assert len({tuple(colour) for colour in colours.reshape(4, 4).tolist()}) == 4
    assert colours[1, 1].tolist() == [1, 1, 1, 1]
