"""What training costs: added up over processes, and in no output."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from tiny import SETTINGS, images, packed, source_file, training

from gta import meter
from gta.datasets.index import write_index
from gta.meter import Cost, memory_of, peak_memory, spent
from gta.train import train
from stages import finetune

CPU = torch.device("cpu")


def test_seconds_add_up_and_the_larger_peak_stays() -> None:
    started = time.monotonic() - 5
    assert spent(Cost(10, 0, 0), started, 0, CPU).seconds == pytest.approx(15, abs=0.5)
    peak = peak_memory(CPU)
    assert spent(Cost(0, 2**60, 0), started, 0, CPU).memory_bytes == 2**60
    assert spent(Cost(0, 1, 0), started, 0, CPU).memory_bytes >= peak


def test_the_peak_of_a_process_is_in_bytes_and_sees_an_array() -> None:
    before = peak_memory(CPU)
    assert 2**26 < before < 2**40  # torch alone takes more than 64 MiB
    array = torch.ones(3 * before // 4)  # float32: three times the peak
    assert peak_memory(CPU) > 2 * before
    del array
    unit = 1 if sys.platform == "darwin" else 1024
    assert peak_memory(CPU) == unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_a_gpu_is_asked_for_its_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 if device.type == "cuda" else 0)
    meter.restart(CPU)
    assert asked == []
    meter.restart(torch.device("cuda"))
    assert asked == [torch.device("cuda")]
    assert peak_memory(torch.device("cuda")) == 7
    assert [memory_of(torch.device(name)) for name in ("cuda", "cpu")] == ["GPU tensors", "process"]


def test_a_resumed_training_counts_what_came_before(tmp_path: Path) -> None:
    """Three epochs in the first process and none in the second."""
    train(training(tmp_path), tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    assert 0 < state["cost"][0] < 600
    state["cost"] = (1000.0, 2**60, 30)
    torch.save(state, tmp_path / "c.pt")
    again = train(training(tmp_path), tmp_path / "c.pt")
    assert again.cost.seconds == pytest.approx(1000, abs=60)
    assert again.cost.seconds > 1000
    assert again.cost[1:] == (2**60, 30)


def test_the_cost_lies_beside_the_state_and_in_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_index(images(tmp_path), tmp_path / "train.csv")
    write_index(images(tmp_path)[:0], tmp_path / "val.csv")
    grid = {"datasets": ["a"], "fractions": [100], "methods": ["baseline"], "seeds": [3]}
    YAML(typ="safe", pure=True).dump({"grid": grid, "finetune": SETTINGS}, tmp_path / "params.yaml")
    source_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    pixels = str(packed(tmp_path, images(tmp_path)).path)
    options = ["--method", "baseline", "--pixels", pixels, "--train", "train.csv", "--val", "val.csv"]
    options += ["--source", "source.safetensors", "--state", "state", "--output", "out"]
    options += ["--targets", "targets"]
    monkeypatch.setattr("sys.argv", ["finetune", *options])
    finetune.main()
    assert sorted(path.name for path in Path("out").iterdir()) == ["history.csv", "seed3.safetensors"]
    (state,) = Path("state").iterdir()
    assert sorted(path.name for path in state.iterdir()) == [
        "cost.json",
        "history.csv",
        "weights.safetensors",
    ]
    cost = json.loads((state / "cost.json").read_text())
    assert cost["images"] == 3 * 10  # epochs, images
    assert cost["seconds"] > 0
    assert cost["memory_bytes"] > 2**26
    assert cost["memory_of"] == "process" or torch.cuda.is_available()
    assert list(cost) == ["seconds", "memory_bytes", "spared", "images", "memory_of", "device"]
