"""Trains cells on noise, alone or as several processes: `python -m together FOLDER PROCESSES CELL...`.

A cell is a method and, after a space, settings as JSON; what the n-th ends with goes into FOLDER/n.pt. Of the
settings `fails` names a process that raises, and `stops` an epoch after which all stop, to go on anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tiny import source_file, training

from gta.errors import InputError, run
from gta.processes import launch, launched, together
from gta.shards import agreed, rank
from gta.train import Run, train

STEADY: dict[str, Any] = {"drop_path": 0.0, "optimizer": "sgd", "lr": 0.03, "lora": {"dropout": 0.0}}
"""Nothing is dropped at random, and rounding is not blown up as Adam's division does to tiny gradients."""


def end_of(folder: Path, cell: str, processes: int = 1) -> dict[str, Any]:
    """What a cell ends with: the model's weights, the penalties', and the history."""
    method, settings = cell.split(" ", 1)
    changes = STEADY | json.loads(settings)
    if changes.pop("fails", None) == rank():
        raise InputError(f"process {rank()} has failed")
    own = folder / f"{rank()}-of-{processes}"  # where each writes its images
    own.mkdir(exist_ok=True)
    source_file(own, num_classes=5, options={"depth": 2})
    checkpoint = folder / f"checkpoint-of-{processes}.pt"
    checkpoint.unlink(missing_ok=True)
    agreed(None)
    stops = changes.pop("stops", None)
    made = training(own, method, **changes)
    if stops is not None:
        stop_after(made, stops, checkpoint)
        made = training(own, method, **changes)
    history = train(made, checkpoint).history.to_dict("list")
    return {"model": made.model.state_dict(), "penalties": made.penalties.state_dict(), "history": history}


def stop_after(made: Run, epochs: int, checkpoint: Path) -> None:
    """Trains until the first step of an epoch further."""
    begin, left = made.model.train, iter(range(epochs))
    made.model.train = lambda mode=True: (next(left), begin(mode))[1]  # type: ignore[method-assign]
    try:
        train(made, checkpoint)
    except StopIteration:
        agreed(None)  # the first process has written


def main() -> None:
    folder, count, *cells = sys.argv[1:]
    if int(count) > 1 and not launched():
        launch(int(count), "together")
        return
    with together():
        for number, cell in enumerate(cells):
            end = end_of(Path(folder), cell, int(count))
            if rank() == 0:
                torch.save(end, Path(folder) / f"{number}.pt")
            agreed(None)  # written, before the next cell may end every process


if __name__ == "__main__":
    run(main)
