"""Attention by layer: means over seeds by hand, the source once, and only panels of what is known."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from study import SETTINGS, grid, study_of, write_cells
from test_figures import texts

from gta.layers import draw_layers, layer_table
from gta.params.evaluate import PER_HEAD
from gta.parts import by_layer


def table(folder: Path) -> pd.DataFrame:
    of = grid(fractions=(15, 30, 100))
    write_cells(folder, of)
    for seed, change in ((0, -0.1), (1, 0.0), (2, 0.1)):
        path = folder / "pets/15/baseline/layers.csv"
        rows = pd.read_csv(path, dtype={"model": str})
        rows.loc[rows["model"] == str(seed), "entropy"] += change
        rows.to_csv(path, index=False)
    study = study_of(folder, of)
    return layer_table(folder, study.cells, of.seeds)


def test_means_over_seeds_and_the_source_once(tmp_path: Path) -> None:
    found = table(tmp_path)
    assert len(found) == 6 + 4 * 6  # source; baseline and GTA at the smallest and largest fraction
    assert found.columns.tolist()[:6] == ["dataset", "fraction", "method", "layer", "head", "seeds"]
    assert found.columns.tolist()[6:] == [*PER_HEAD, *(f"{name}_std" for name in PER_HEAD)]
    source = found[found["method"] == "source"]
    assert source[["fraction", "seeds"]].isna().all().all()
    assert (source["entropy"] == 0).all()
    row = found.query("method == 'baseline' and fraction == 15 and layer == 1 and head == 2").iloc[0]
    assert (row["seeds"], row["entropy"]) == (3, pytest.approx(2.2))
    assert row["entropy_std"] == pytest.approx(0.1)
    assert row["kl_std"] == pytest.approx(0)
    assert math.isnan(row["mass_box"])


def test_a_panel_a_fraction_and_measure_that_is_known(tmp_path: Path) -> None:
    found = table(tmp_path)
    shown = texts(draw_layers(found, "box", SETTINGS)["svg"])  # no box is known: the mask stands in
    assert [text for text in shown if "(%)" in text] == ["mass on the mask (%)"] * 2
    assert [shown.count(f"{fraction} %") for fraction in (15, 30, 100)] == [3, 0, 3]
    assert {"source", "baseline", "GTA", "each head"} <= set(shown)
    without = texts(draw_layers(found.assign(mass_mask=float("nan")), "mask", SETTINGS)["svg"])
    assert not [text for text in without if "mass" in text]
    assert without.count("15 %") == 2


def test_a_grid_without_baseline_and_gta_shows_none(tmp_path: Path) -> None:
    of = grid(["probe"])
    write_cells(tmp_path, of, {"probe": [0.5] * 3}, {})
    part = by_layer(study_of(tmp_path, of))
    assert part.section.pictures == []
    assert list(part.files) == ["layers.csv"]
