"""tools.growth: its lock files are what DVC expects, and its page follows from its numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tools.growth import FAR, SPLITS, Cost, extended, measure, report


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


def test_the_page_says_what_was_measured() -> None:
    rows = [
        Cost(count, layout, 2 * count, 1.0, 2.0, 3.0 + count) for count in (100, 300) for layout in SPLITS
    ]
    page = report(pd.DataFrame(rows))
    assert page.count("\n## ") == 2
    assert page.count("| yes") == 4
    assert page.count("| no ") == 2
