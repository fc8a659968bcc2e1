"""Training curves: means over seeds by hand, and panels of the columns that there are."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from study import SETTINGS, grid, study_of, write_cells
from test_figures import texts

from gta.curves import curve_table, draw_curves


def table(folder: Path, seeds: int = 3) -> pd.DataFrame:
    write_cells(folder, grid(fractions=(15, 100), seeds=seeds))
    study = study_of(folder, grid(fractions=(15, 100), seeds=seeds))
    return curve_table(folder, study.cells, study.grid.seeds)


def test_means_and_spreads_by_hand(tmp_path: Path) -> None:
    found = table(tmp_path)
    assert found[["fraction", "method", "epoch"]].to_numpy().tolist() == [
        [fraction, method, epoch]
        for fraction in (15, 100)
        for method in ("baseline", "GTA")
        for epoch in (1, 2)
    ]
    row = found.iloc[1]
    assert (row["seeds"], row["cross_entropy"], row["cross_entropy_std"]) == (3, 2, 1)  # of 1, 2, 3
    assert row["train_top1"] == pytest.approx(0.5)
    assert found["gta"].notna().tolist() == [False, False, True, True] * 2
    assert not [name for name in found if name.startswith(("lr", "seed_"))]


def test_panels_of_what_there_is(tmp_path: Path) -> None:
    found = table(tmp_path)
    shown = texts(draw_curves(found, SETTINGS)["svg"])
    assert shown.count("pets, 15 %") == shown.count("pets, 100 %") == 3
    assert shown.count("validation accuracy (%)") == 0
    assert "± std, 3 seeds" in shown
    validated = found.assign(val_top1=[0.5, float("nan")] * 4, val_top1_std=0.1)
    assert texts(draw_curves(validated, SETTINGS)["svg"]).count("validation accuracy (%)") == 2


def test_one_seed_and_no_cell(tmp_path: Path) -> None:
    found = table(tmp_path, seeds=1)
    assert found["loss_std"].isna().all()
    assert not [text for text in texts(draw_curves(found, SETTINGS)["svg"]) if "std" in text]
    nothing = curve_table(tmp_path, [], [0])
    assert nothing.empty
    assert "no cell is shown" in texts(draw_curves(nothing, SETTINGS)["svg"])
