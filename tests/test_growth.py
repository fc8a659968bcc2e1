"""tools.growth: its lock files are what DVC expects, and its page follows from its numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from gta.params.section import read_params
from tools.growth import FAR, FIRST, ROOT, SPLITS, Cost, extended, first_runs, measure, report, training


@pytest.mark.parametrize("layout", SPLITS)
def test_dvc_accepts_the_project_as_it_is_built(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cost = measure(20, layout, SPLITS[layout])  # raises where DVC would run more, or less, than it must
    assert cost.stages == 2 * 20 + 4 * 5 + 4
    assert len(list(tmp_path.rglob("dvc.lock"))) == (1 if layout == "one file" else 6)


def test_what_is_far_follows_from_what_was_measured() -> None:
    rows = [
        Cost(count, "one file", 2 * count, 0.01 * count, 0.1 * count, 1 + 0.02 * count)
        for count in (100, 500)
    ]
    table = extended(pd.DataFrame(rows).drop(columns="layout"))
    far = table.iloc[-1]
    assert (far["cells"], far["stages"]) == (FAR, 2 * FAR)
    assert far["lock"] == pytest.approx(200)
    assert far["nothing"] == pytest.approx(2000)
    assert far["stage"] == pytest.approx(401)  # 1 s, and 0.01 s a stage
    assert table["first"].iloc[0] == pytest.approx((200 + 0.005 * 200**2) / 3600)


def test_training_takes_its_images_times_the_time_of_each() -> None:
    params = {
        "grid": {
            "datasets": ["a"],
            "fractions": [50, 100],
            "methods": ["baseline", "gta-1+transmix"],
            "seeds": [0, 1],
        },
        "download": {"a": {"train": 1000}},
        "split": {"val": 20},
        "finetune": {"batch_size": 100, "epochs": 10, "min_steps": 60},
    }
    steps = {"batch": 50, "rows": [{"step": "plain", "ms": 100}, {"step": "GTA", "ms": 130}]}
    images = 400 * 15 + 800 * 10  # 60 steps are 15 epochs of 4
    assert training(params, steps) == pytest.approx(images * 2 * 0.23 / 50 / 3600)


def test_a_whole_grid_is_run_in_each_way() -> None:
    params = read_params(ROOT / "params.yaml")
    params["grid"] |= {"fractions": [100], "methods": ["baseline"]}
    table = first_runs(params)  # raises where `dvc repro` finds something left to do
    assert table["by"].tolist() == [*FIRST]
    assert table["stages"].tolist() == [10, 10]
    assert (table[["first", "nothing"]] > 0).all(axis=None)


def test_the_page_says_what_was_measured() -> None:
    first = pd.DataFrame({"by": [*FIRST], "stages": 506, "first": [1800.0, 360.0], "nothing": [9.0, 8.0]})
    rows = [
        Cost(count, layout, 2 * count, 1.0, 2.0, 3.0 + count) for count in (100, 300) for layout in SPLITS
    ]
    page = report(first, 5.0, pd.DataFrame(rows))
    assert "506 stages" in page
    assert "| `dvc repro`                |           0.50 |             10.0 |" in page
    assert "|           0.10 |              2.0 |" in page
    assert page.count("\n### ") == 2
    assert page.count("| yes") == 4
    assert page.count("| no ") == 2
