"""The benchmarks run, and write what they print: nothing about speed is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import step


def test_every_way_of_a_step_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--model vit_tiny_patch16_224 --size 32 --batch 2 --rounds 1 --steps 1 --precision fp32"
    monkeypatch.setattr("sys.argv", ["step", *options.split(), "--output", str(tmp_path)])
    step.main()
    table = pd.read_csv(tmp_path / "step-vit_tiny_patch16_224-2-cpu.csv")
    assert table["step"].tolist() == [
        *("plain, fused", "GTA, fused", "plain, unfused", "GTA, unfused"),
        *("GTA by whole maps, unfused", "GTA by Hugging Face's output_attentions"),
    ]
    assert table["over plain"][0] == 1
    assert (table[["ms", "share of rate"]] > 0).all(axis=None)
    stored = json.loads((tmp_path / "step-vit_tiny_patch16_224-2-cpu.json").read_text())
    assert (stored["batch"], len(stored["rows"])) == (2, 6)
    assert "matrix TFLOP/s" in capsys.readouterr().out
