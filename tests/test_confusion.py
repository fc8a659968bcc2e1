"""Confusion matrices: counts by hand, names where there is room, the most frequent mistakes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from study import SETTINGS, grid, study_of, write_cells
from test_figures import texts

from gta.confusion import LONGEST, MOST_NAMES, TOP, confusion_rows, confusion_table, draw_confusion
from gta.errors import InputError
from gta.parts import confusions


def table(folder: Path) -> pd.DataFrame:
    write_cells(folder, grid())
    return confusion_table(folder, study_of(folder, grid()).cells, [0, 1, 2])


def test_counts_by_hand(tmp_path: Path) -> None:
    found = table(tmp_path)
    assert found.columns.tolist() == [
        *(
            "dataset",
            "fraction",
            "method",
            "label",
            "class",
            "predicted",
            "predicted_class",
            "images",
            "share",
        )
    ]
    own = found.loc[found["method"] == "GTA", ["class", "predicted_class", "images", "share"]]
    assert own.to_numpy().tolist() == [
        ["cat", "cat", 3, 0.5],
        ["cat", "dog", 3, 0.5],
        ["dog", "dog", 6, 1.0],
    ]


def test_names_and_numbers_where_there_is_room(tmp_path: Path) -> None:
    found = table(tmp_path)
    long_name = "a" * LONGEST + "bc"
    shown = texts(draw_confusion(found, {0: "cat", 1: long_name}, SETTINGS)["svg"])
    assert {"cat", "a" * (LONGEST - 1) + "…", "baseline, 15 %", "GTA, 15 %", "50", "100"} <= set(shown)
    assert "0" not in shown  # what does not occur has no number
    many = {label: f"class {label}" for label in range(MOST_NAMES + 1)}
    crowded = texts(draw_confusion(found, many, SETTINGS)["svg"])
    assert not {"class 0", "50", "100"} & set(crowded)
    assert {"baseline, 15 %", "predicted class"} <= set(crowded)


def test_the_most_frequent_mistakes_of_either_method() -> None:
    rows = [("baseline", 0, 1, 0.2), ("GTA", 0, 1, 0.1), ("GTA", 1, 0, 0.3), ("baseline", 1, 1, 1.0)]
    rows += [("GTA", 2, other, 0.01) for other in range(3, 3 + TOP)]
    found = pd.DataFrame(rows, columns=["method", "label", "predicted", "share"])
    found = found.assign(dataset="pets", fraction=15)
    found = found.assign(**{"class": found["label"].map(str), "predicted_class": found["predicted"].map(str)})
    (title, top), *others = confusion_rows(found, 1).items()
    assert (title, others) == ("pets, 15 %", [])
    assert len(top) == TOP
    assert top[:2] == [
        {"class": "1", "taken for": "0", "baseline": "0.0", "GTA": "30.0"},
        {"class": "0", "taken for": "1", "baseline": "20.0", "GTA": "10.0"},
    ]


def test_no_mistake_and_no_cell(tmp_path: Path) -> None:
    found = table(tmp_path)
    assert confusion_rows(found[found["label"] == found["predicted"]], 1) == {}
    of = grid(["probe"])
    write_cells(tmp_path, of, {"probe": [0.5] * 3}, {})
    part = confusions(study_of(tmp_path, of))
    assert (part.section.pictures, part.section.tables) == ([], [])


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    cells = study_of(tmp_path, grid()).cells
    (tmp_path / "pets/15/baseline/classes.csv").write_text("label\n0\n")
    with pytest.raises(InputError, match=r"baseline/classes\.csv: expected the columns class, found label"):
        confusion_table(tmp_path, cells, [0])
    (tmp_path / "pets/15/gta-0.1/predictions.csv").unlink()
    with pytest.raises(InputError, match=r"gta-0\.1/predictions\.csv: no such file"):
        confusion_table(tmp_path, cells, [0])
