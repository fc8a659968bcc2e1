"""Reliability diagrams: bins by hand, and against the calibration error that evaluate has measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study import SETTINGS, grid, study_of, write_cells
from test_figures import texts

from gta.metrics import calibration_error
from gta.reliability import draw_reliability, reliability_table


def test_bins_by_hand(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())  # confidence 0.9 right, 0.6 wrong, 0.6 right, 1 right, for each of 3 seeds
    cells = study_of(tmp_path, grid()).cells
    found = reliability_table(tmp_path, cells, [0, 1, 2], 10)
    assert found.columns.tolist() == [
        *("dataset", "fraction", "method", "low", "high", "share", "images", "confidence", "accuracy")
    ]
    first = found[found["method"] == "baseline"]
    assert first[["low", "high", "images", "share", "confidence", "accuracy"]].to_numpy().tolist() == [
        pytest.approx([0.6, 0.7, 6, 0.5, 0.6, 0.5]),
        pytest.approx([0.9, 1.0, 6, 0.5, 0.95, 1.0]),  # full confidence is in the last bin
    ]
    assert reliability_table(tmp_path, cells, [1], 10)["images"].sum() == 2 * 4


def test_the_mean_distance_to_the_line_is_the_calibration_error(tmp_path: Path) -> None:
    write_cells(tmp_path, grid(seeds=1))
    rng = np.random.default_rng(0)
    images = pd.DataFrame({"label": rng.integers(0, 3, 200), "predicted": rng.integers(0, 3, 200)})
    images = images.assign(confidence=rng.random(200), seed=0, split="test")
    for method in ("baseline", "gta-0.1"):
        images.to_csv(tmp_path / f"pets/15/{method}/predictions.csv", index=False)
    found = reliability_table(tmp_path, study_of(tmp_path, grid(seeds=1)).cells, [0], 15)
    rows = found[found["method"] == "GTA"]
    right = (images["label"] == images["predicted"]).to_numpy(float)
    expected = calibration_error(images["confidence"].to_numpy(), right, 15)
    distance = (rows["share"] * (rows["accuracy"] - rows["confidence"]).abs()).sum()
    assert distance == pytest.approx(expected)
    assert rows["low"].is_monotonic_increasing


def test_a_panel_a_fraction(tmp_path: Path) -> None:
    of = grid(fractions=(15, 30, 100))
    write_cells(tmp_path, of)
    cells = study_of(tmp_path, of).cells
    shown = texts(draw_reliability(reliability_table(tmp_path, cells, of.seeds, 10), SETTINGS)["svg"])
    assert [text for text in shown if text.startswith("pets")] == ["pets, 15 %", "pets, 100 %"]
    assert {"baseline", "GTA", "perfectly calibrated"} <= set(shown)
    nothing = reliability_table(tmp_path, [], of.seeds, 10)
    assert "no cell is shown" in texts(draw_reliability(nothing, SETTINGS)["svg"])
