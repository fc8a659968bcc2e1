"""Two processes, and a batch in parts: the steps of one process with the whole batch, for every method."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
from repository import ROOT
from ruamel.yaml import YAML
from safetensors.torch import load_file
from tiny import images, packed, settings, source_file, training
from together import end_of
from working import working_in

from gta import warning
from gta.datasets.index import read_index, write_index
from gta.errors import InputError
from gta.methods import MIXINGS, PENALTIES, SCOPES, parse_method
from gta.pixels import Pixels
from gta.shards import shards_of
from stages import finetune

WEIGHTS = {"rtol": 0.0, "atol": 2e-6}
"""Of weights after eight steps; the largest that was seen is 2e-7."""
ADAMW = {"rtol": 0.0, "atol": 2e-5}
"""The same after 20 steps of AdamW, which divides small gradients and their rounding by themselves."""
HISTORY = {"rel": 1e-5, "abs": 2e-6}
"""Of losses and accuracies."""
METHODS = [
    *("baseline", "gta-1", "at-1", "l2sp-0.1", "delta-0.5", "bss-1", "lwf-1", "cotuning-1", "bituning-1"),
    *("mixup", "cutmix", "transmix", "probe", "lastblock", "lora"),
    *("gta-1+transmix", "cotuning-1+cutmix", "gta-1+lora", "bss-1+lastblock"),
]
GTA = [
    {"distance": distance, "reduction": reduction, "columns": columns}
    for distance, reduction, columns in (
        ("logits", "sum", "patches"),
        ("centred", "mean", "all"),
        ("centred", "sum", "all"),
        ("kl", "mean", "patches"),
        ("kl", "sum", "all"),
    )
]
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((method, {}) for method in METHODS),
    *(("gta-1", {"gta": options}) for options in GTA),
    ("bituning-1+gta-1", {"clip_norm": 0.1, "weight_decay": 0.1}),
]
SMALL = {"epochs": 2, "batch_size": 3}
"""Ten images: steps of three, cut into one and two, and a last one of a single image."""
CELLS = [f"{method} {json.dumps(SMALL | changes)}" for method, changes in OPTIONS]
PARTED = [
    f"{method} {json.dumps({'epochs': 2, 'batch_size': 5, 'accumulate': 2})}"
    for method in ("baseline", "gta-1+transmix", "cotuning-1", "bituning-1")
]
"""Of five images one process takes one and one, the other one and two."""
DROPPED = [
    f"gta-1 {json.dumps(SMALL | {'drop_path': 0.3, 'optimizer': 'adamw', 'lr': 1e-3} | more)}"
    for more in ({}, {"stops": 1})
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the processes would want a GPU each")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def two(folder: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """What each cell ends with on two processes; and what they say when, after all, the second one fails."""
    cells = [*CELLS, *PARTED, *DROPPED]
    command = ["-m", "together", str(folder), "2", *cells, 'baseline {"fails": 1}']
    done = subprocess.run([sys.executable, *command], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    return {cell: torch.load(folder / f"{number}.pt") for number, cell in enumerate(cells)}, done.stderr


def assert_same(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    for part in ("model", "penalties"):
        torch.testing.assert_close(got[part], wanted[part], **WEIGHTS)
    assert got["history"].keys() == wanted["history"].keys()
    for name, values in wanted["history"].items():
        assert got["history"][name] == pytest.approx(values, **HISTORY), name


def test_every_method_is_tried() -> None:
    assert {term for name in METHODS for term in parse_method(name).terms} == {*PENALTIES, *MIXINGS, *SCOPES}


@pytest.fixture(scope="module")
def alone(folder: Path) -> Callable[[str], dict[str, Any]]:
    """What a cell ends with on one process."""
    return cache(partial(end_of, folder))


def with_accumulate(cell: str, parts: int) -> str:
    method, values = cell.split(" ", 1)
    return f"{method} {json.dumps(json.loads(values) | {'accumulate': parts})}"


@pytest.mark.parametrize("cell", CELLS)
def test_two_processes_train_as_one(
    cell: str, two: tuple[dict[str, Any], str], alone: Callable[[str], dict[str, Any]]
) -> None:
    assert_same(two[0][cell], alone(cell))


@pytest.mark.parametrize("cell", [cell for cell in CELLS if "bss" not in cell])
def test_a_batch_in_parts_is_the_whole_batch(cell: str, alone: Callable[[str], dict[str, Any]]) -> None:
    assert_same(alone(with_accumulate(cell, 2)), alone(cell))


@pytest.mark.parametrize("cell", PARTED)
def test_parts_on_two_processes_are_the_whole_batch(
    cell: str, two: tuple[dict[str, Any], str], alone: Callable[[str], dict[str, Any]]
) -> None:
    assert_same(two[0][cell], alone(with_accumulate(cell, 1)))


def test_two_processes_that_stopped_go_on_to_the_same_bits(two: tuple[dict[str, Any], str]) -> None:
    """With stochastic depth, which each draws by itself."""
    undisturbed, stopped = (two[0][cell] for cell in DROPPED)
    for part in ("model", "penalties"):
        torch.testing.assert_close(stopped[part], undisturbed[part], rtol=0, atol=0)
    assert stopped["history"] == undisturbed["history"]


def test_a_process_that_fails_ends_all_with_its_one_line(two: tuple[dict[str, Any], str]) -> None:
    said = two[1].splitlines()
    assert said[-1] == "error: process 1 has failed"
    first = (" seed 0 epoch ", ": 2 epochs of ", "goes on after epoch")
    assert all(any(words in line for words in first) for line in said[:-1]), two[1]


def test_bss_wants_the_whole_batch_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"finetune\.accumulate: expected 1 with bss.*got 2"):
        training(tmp_path, "bss-1", accumulate=2)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("accumulate", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_cover_the_batch_once(
    total: int, accumulate: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    share = 0.0
    for number in range(count):
        monkeypatch.setattr("gta.shards.processes", lambda: count)
        monkeypatch.setattr("gta.shards.rank", lambda number=number: number)
        shards = shards_of(total, accumulate)
        assert 1 <= len(shards) <= accumulate
        assert [shard.first for shard in shards] == [True] + [False] * (len(shards) - 1)
        assert [shard.last for shard in shards] == [False] * (len(shards) - 1) + [True]
        for shard in shards:
            rows = list(range(total))[shard.rows]
            assert rows, "a shard without an image has no mean"
            assert shard.share == pytest.approx(len(rows) / total) or shard.share == 0
            seen += rows if shard.share else []
            share += shard.share
    assert seen == list(range(total))
    assert share == pytest.approx(1)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A folder with all that the stage reads; its arguments."""
    listed = images(tmp_path)
    pixels = packed(tmp_path, listed).path
    write_index(listed[:8], tmp_path / "train.csv")
    write_index(listed[8:], tmp_path / "val.csv")
    source_file(tmp_path, options={"depth": 2})
    monkeypatch.chdir(tmp_path)
    files = ["--train", "train.csv", "--val", "val.csv", "--source", "source.safetensors"]
    files += ["--targets", "targets"]
    return ["--method", "gta-1+transmix", "--pixels", str(pixels), *files]


def write_params(**changes: Any) -> None:
    grid = {"datasets": ["a"], "fractions": [100], "methods": ["gta-1+transmix"], "seeds": [0, 1]}
    section = settings(drop_path=0.0, lr=3e-4, validate_every=1, targets_gb=1.0, **changes)
    with Path("params.yaml").open("w") as stream:
        YAML().dump({"grid": grid, "finetune": section.model_dump()}, stream)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a killed process leaves others running")
def test_the_stage_killed_twice_and_warned_ends_as_one_process_does(
    workplace: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(epochs=10)
    monkeypatch.setattr("sys.argv", ["finetune", *workplace, "--state", "one", "--output", "of-one"])
    finetune.main()
    write_params(epochs=10, processes=2)
    command = [sys.executable, "-m", "stages.finetune", *workplace, "--state", "two", "--output", "of-two"]
    for ending in (signal.SIGKILL, signal.SIGTERM, warning.SIGNAL):
        before = {path.stat().st_mtime_ns for path in Path("two").rglob("checkpoint.pt")}
        with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as stage:
            while before >= {path.stat().st_mtime_ns for path in Path("two").rglob("checkpoint.pt")}:
                assert stage.poll() is None, "it ended before a checkpoint of it was seen"
                time.sleep(0.01)
            if ending == warning.SIGNAL:  # as Slurm's goes to all
                for child in psutil.Process(stage.pid).children(recursive=True):
                    child.send_signal(ending)
            stage.send_signal(ending)
            said = stage.communicate()[1]
        assert stage.returncode == (warning.STATUS if ending == warning.SIGNAL else -ending), said
        assert "Traceback" not in said
        deadline = time.monotonic() + 30
        while left := set(working_in(Path.cwd())) - {os.getpid()}:
            assert time.monotonic() < deadline, f"they outlived the stage: {left}"
            time.sleep(0.05)
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("goes on after epoch") == 1
    assert "2 processes, each on the CPU" in done.stderr
    for name in ("seed0.safetensors", "seed1.safetensors"):
        one, two = (load_file(Path(folder) / name) for folder in ("of-one", "of-two"))
        torch.testing.assert_close(two, one, **ADAMW)
    histories = [pd.read_csv(Path(folder) / "history.csv") for folder in ("of-one", "of-two")]
    pd.testing.assert_frame_equal(*histories, rtol=1e-4, atol=1e-5)
    (first, _) = sorted(Path("two").iterdir())
    assert json.loads((first / "cost.json").read_text())["device"].startswith("2 processes, each on")


def test_a_seed_that_is_trained_stays_trained_whatever_the_shards(workplace: list[str]) -> None:
    pixels, listed = Pixels(Path(workplace[3])), read_index(Path(workplace[5]))
    path = Path("source.safetensors")
    keys = {
        finetune.Cell(
            settings(**changes), parse_method("gta-1"), pixels, listed, listed, path, 32, torch.device("cpu")
        ).key(0)
        for changes in ({}, {"processes": 2}, {"accumulate": 2}, {"workers": 1}, {"epochs": 4})
    }
    assert len(keys) == 2  # that of other epochs alone is another


def test_a_lack_of_memory_is_one_line(workplace: list[str]) -> None:
    """The address space is limited to 16 MiB more than what the stage has when it starts."""
    write_params(batch_size=8)
    code = (
        "import resource, sys; from gta.errors import run; from stages import finetune\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, resource.RLIM_INFINITY))\n"
        "run(finetune.main)\n"
    )
    command = [sys.executable, "-c", code, *workplace, "--state", "one", "--output", "of-one"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert not Path("of-one").exists()
    assert done.stderr.splitlines()[-1].startswith(
        "error: finetune: out of memory with batch_size 8 at 32 px: raise finetune.accumulate or lower "
        "finetune.batch_size ("
    )
