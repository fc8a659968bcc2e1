"""kill -9 in the middle of training: the next `dvc repro` ends with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from repository import ENVIRONMENT, Repository, small_params
from working import working_in


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])  # the second may stay between DVC and the stage
def test_killed_in_the_middle_it_ends_with_the_same_weights(tmp_path: Path, shell: str) -> None:
    values = small_params()
    values["grid"] |= {"fractions": [100], "methods": ["gta-0.1"], "seeds": [0]}
    values["finetune"] |= {"epochs": 120, "drop_path": 0.1}  # seconds, so that the kill comes in between
    weights = []
    prepared = Repository(tmp_path / "prepared", values)
    prepared.repro("source", "split@digits")
    for kills in (0, 2):
        repository = prepared.copy(tmp_path / str(kills))
        for _ in range(kills):
            kill_when_it_trains(repository, shell)
        output = repository.run("dvc", "repro", "finetune@digits-100-gta-0.1")
        assert ("goes on after epoch" in output) == bool(kills)
        weights.append(repository.path / "runs/finetune/digits/100/gta-0.1/seed0.safetensors")
    assert weights[0].read_bytes() == weights[1].read_bytes()


def checkpoints(repository: Repository) -> set[int]:
    """When each checkpoint was written, in nanoseconds."""
    return {path.stat().st_mtime_ns for path in (repository.path / "runs/state").rglob("checkpoint.pt")}


def kill_when_it_trains(repository: Repository, shell: str) -> None:
    """Starts `dvc repro`, waits for a new checkpoint, and kills DVC alone with SIGKILL."""
    before = checkpoints(repository)
    command = ["dvc", "repro", "finetune@digits-100-gta-0.1"]
    with subprocess.Popen(
        command, cwd=repository.path, env={**ENVIRONMENT, "SHELL": shell}, stderr=subprocess.DEVNULL
    ) as process:
        while checkpoints(repository) <= before:
            assert process.poll() is None, "it ended before a checkpoint of it was seen"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while working_in(repository.path):
        assert time.monotonic() < deadline, "the stage outlived DVC"
        time.sleep(0.1)
