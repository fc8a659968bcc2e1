"""How several processes are launched, and what is said when one of them fails."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from gta.errors import InputError
from gta.processes import _cause, launch

LOST = ("RuntimeError: Connection closed by peer", "Traceback of the lost connection")


def failed(folder: Path, *failures: int | tuple[str, str]) -> ChildFailedError:
    """As the launcher raises it: of each process the signal that ended it, or its error and traceback."""
    made = {}
    for number, told in enumerate(failures):
        file, code = folder / f"{number}.json", 1
        if isinstance(told, int):
            code = -told
        else:
            message = {"message": told[0], "extraInfo": {"py_callstack": told[1], "timestamp": "7"}}
            file.write_text(json.dumps({"message": message}))
        made[number] = ProcessFailure(number, 4321 + number, code, str(file))
    return ChildFailedError("finetune", made)


def test_an_input_error_comes_before_what_follows_from_it(tmp_path: Path) -> None:
    cause = _cause(
        failed(tmp_path, LOST, ("InputError: a.png: no such image", "Traceback"), signal.SIGTERM), 3
    )
    assert isinstance(cause, InputError)
    assert str(cause) == "a.png: no such image"


def test_a_process_that_was_killed_is_named_but_is_no_mistake_of_the_users(tmp_path: Path) -> None:
    cause = _cause(failed(tmp_path, LOST, signal.SIGKILL, signal.SIGTERM), 3)
    assert isinstance(cause, SystemExit)  # `make cluster` tries the stage again
    assert str(cause) == "process 1 of 3 was ended by SIGKILL (by hand, or for want of memory)"


def test_any_other_error_comes_with_its_traceback(tmp_path: Path) -> None:
    cause = _cause(failed(tmp_path, signal.SIGTERM, ("KeyError: 'a'", "Traceback of the mistake")), 2)
    assert isinstance(cause, RuntimeError)
    assert str(cause) == "process 1 of 2:\nTraceback of the mistake"


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        InputError, match=r"finetune\.processes: expected at most the number of GPUs .*, 1, got 2"
    ):
        launch(2, "stages.finetune")
