"""The benchmarks run, and write what they print: nothing about speed is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from repository import small_params
from ruamel.yaml import YAML
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import epochs, scaling, step, sweep
from gta.kernels import GeluProduct


def test_every_way_of_a_step_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--model vit_tiny_patch16_224 --size 32 --batch 2 --rounds 1 --steps 1 --precision fp32"
    monkeypatch.setattr("sys.argv", ["step", *options.split(), "--output", str(tmp_path)])
    step.main()
    table = pd.read_csv(tmp_path / "step-vit_tiny_patch16_224-2-cpu.csv")
    assert table["step"].tolist() == [
        *("plain", "GTA", "GTA, source spared", "plain, timm's kernels", "GTA by whole maps"),
        "GTA by Hugging Face's output_attentions",
    ]
    assert table["over plain"][0] == 1
    assert (table[["ms", "share of rate"]] > 0).all(axis=None)
    stored = json.loads((tmp_path / "step-vit_tiny_patch16_224-2-cpu.json").read_text())
    assert (stored["batch"], len(stored["rows"])) == (2, 6)
    assert "matrix TFLOP/s" in capsys.readouterr().out


def test_a_product_and_its_gelu_count_as_the_product() -> None:
    layer, tokens = nn.Linear(6, 5), torch.ones(2, 3, 6)
    for module in (layer, GeluProduct(layer)):
        with FlopCounterMode(display=False, custom_mapping=step.COUNTED) as counter, torch.no_grad():
            module(tokens)
        assert counter.get_total_flops() == 2 * 2 * 3 * 6 * 5


def test_epochs_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (60, 70, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    options = "--model vit_tiny_patch16_224 --size 32 --side 40 --batch 2 --rounds 1 --precision fp32"
    monkeypatch.setattr(
        "sys.argv", ["epochs", str(tmp_path / "photos"), *options.split(), "--output", str(tmp_path)]
    )
    epochs.main()
    table = pd.read_csv(tmp_path / "epochs-vit_tiny_patch16_224-32-cpu.csv")
    ways = ("here", "as timm loads", "as TLlib loads")
    assert table["what"].tolist() == [
        "step alone",
        *(f"{what}, {way}" for what in ("epoch", "loader alone") for way in ways),
        "epoch, here, 2 of 3 photos",
    ]
    assert table["of step alone"][0] == 1
    assert (table["images/s"] > 0).all()
    assert json.loads((tmp_path / "epochs-vit_tiny_patch16_224-32-cpu.json").read_text())["images"] == 3


def test_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "SIZES", (32, 224))
    monkeypatch.setattr(scaling, "DEPTHS", (1,))
    monkeypatch.setattr(scaling, "BATCHES", (1,))
    options = "--model vit_tiny_patch16_224 --batch 1 --rounds 1 --steps 1"
    monkeypatch.setattr("sys.argv", ["scaling", *options.split(), "--output", str(tmp_path)])
    scaling.main()
    table = pd.read_csv(tmp_path / "scaling-vit_tiny_patch16_224-cpu.csv")
    assert table[["size", "depth", "batch", "tokens"]].to_numpy().tolist() == [
        [32, 12, 1, 5],
        [224, 12, 1, 197],
        [224, 1, 1, 197],
    ]
    assert (table[["GTA, over plain", "GTA by whole maps, over plain"]] > 0).all(axis=None)


def test_a_sweep_here_and_as_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(small_params(), stream)
    monkeypatch.setattr(sweep, "WEIGHTS", (0.1, 0.3))
    monkeypatch.setattr(sweep, "SWEEPS", {"2 weights, here": 2})
    monkeypatch.setattr(sweep, "SCRIPTS", "2 scripts")
    options = f"--params {tmp_path / 'params.yaml'} --rounds 1 --output {tmp_path}"
    monkeypatch.setattr("sys.argv", ["sweep", *options.split()])
    sweep.main()
    table = pd.read_csv(tmp_path / "sweep-digits-cpu.csv")
    assert table["what"].tolist() == ["a cell", "2 weights, here", "2 scripts"]
    assert table["over a cell"][0] == 1
    assert (table["s"] > 0).all()
