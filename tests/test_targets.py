"""The source's rows kept for other cells: the same bits, never wrong ones, and no more room than allowed."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
import torch
from tiny import images as noise
from tiny import packed, settings, source_file, training

import gta.targets
from gta.attention import LogitRecorder
from gta.methods import parse_method
from gta.precision import pick_device, takes_bf16
from gta.targets import Targets, _removed
from gta.train import Trained, train
from stages.finetune import Cell

ROOM = 1e9


def trained(
    folder: Path, method: str, targets: Targets | None, **changes: object
) -> tuple[dict[str, torch.Tensor], Trained, int]:
    """The weights, what training told, and how many images the source saw."""
    run = replace(training(folder, method, **changes), targets=targets)
    seen: list[int] = []
    run.source.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    told = train(run, folder / f"{len(list(folder.iterdir()))}.pt")
    return dict(run.model.state_dict()), told, sum(seen)


def alike(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mixing", ["", "+transmix"])
def test_a_sweep_runs_the_source_once_and_ends_with_the_same_bits(
    tmp_path: Path, precision: str, mixing: str
) -> None:
    kept = tmp_path / "targets/key"
    trained(tmp_path, f"gta-0.1{mixing}", Targets(kept, 0, ROOM), precision=precision)
    alone, first, saw = trained(tmp_path, f"gta-1{mixing}", None, precision=precision)
    swept, later, spared = trained(tmp_path, f"gta-1{mixing}", Targets(kept, 0, ROOM), precision=precision)
    assert alike(alone, swept)
    assert first.history.equals(later.history)
    assert (saw, spared) == (30, 0)  # ten images, three epochs
    assert (first.cost.spared, later.cost.spared) == (0, 30)


def test_a_part_of_a_batch_has_its_own_rows(tmp_path: Path) -> None:
    kept = tmp_path / "targets/key"
    alone, _, _ = trained(tmp_path, "gta-1", None, accumulate=2)
    trained(tmp_path, "gta-0.1", Targets(kept, 0, ROOM), accumulate=2)
    swept, _, spared = trained(tmp_path, "gta-1", Targets(kept, 0, ROOM), accumulate=2)
    assert spared == 0
    assert alike(alone, swept)


def test_another_seed_and_a_damaged_epoch_are_computed(tmp_path: Path) -> None:
    kept = tmp_path / "targets/key"
    trained(tmp_path, "gta-1", Targets(kept, 0, ROOM))
    assert trained(tmp_path, "gta-1", Targets(kept, 1, ROOM), seed=1)[2] == 30
    whole = (kept / "0-1-0.safetensors").read_bytes()
    (kept / "0-1-0.safetensors").write_bytes(whole[:-1])
    assert trained(tmp_path, "gta-1", Targets(kept, 0, ROOM))[2] == 10
    assert (kept / "0-1-0.safetensors").read_bytes() == whole


def test_what_is_used_least_recently_makes_room_but_not_for_its_own_sweep(tmp_path: Path) -> None:
    trained(tmp_path, "gta-1", Targets(tmp_path / "targets/first", 0, ROOM), epochs=1)
    (file,) = (tmp_path / "targets/first").glob("*.safetensors")
    size = file.stat().st_size
    trained(tmp_path, "gta-1", Targets(tmp_path / "targets/second", 0, ROOM), epochs=1)
    for age, name in enumerate(("second", "first")):
        os.utime(tmp_path / "targets" / name, (age, age))
    trained(tmp_path, "gta-1", Targets(tmp_path / "targets/third", 0, 2.5 * size), epochs=1)
    assert sorted(path.name for path in (tmp_path / "targets").iterdir()) == ["first", "third"]
    trained(tmp_path, "gta-1", Targets(tmp_path / "targets/third", 1, 2.5 * size), seed=1, epochs=3)
    kept = sorted(path.name for path in (tmp_path / "targets").rglob("*.safetensors"))
    assert kept == ["0-0-0.safetensors", "1-0-0.safetensors"]


def test_what_another_sweep_uses_makes_no_room(tmp_path: Path) -> None:
    first = Targets(tmp_path / "targets/first", 0, ROOM)
    trained(tmp_path, "gta-1", first, epochs=1)
    (file,) = (tmp_path / "targets/first").glob("*.safetensors")
    limit = 1.5 * file.stat().st_size
    trained(tmp_path, "gta-1", Targets(tmp_path / "targets/second", 0, limit), epochs=1)
    assert not (tmp_path / "targets/second").exists()
    del first
    trained(tmp_path, "gta-1", Targets(tmp_path / "targets/second", 0, limit), epochs=1)
    assert [path.name for path in (tmp_path / "targets").iterdir()] == ["second"]


def test_where_no_file_can_be_locked_rows_are_kept_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(gta.targets.fcntl, "flock", refuse)
    first = Targets(tmp_path / "targets/first", 0, ROOM)
    trained(tmp_path, "gta-1", first, epochs=1)
    (file,) = (tmp_path / "targets/first").glob("*.safetensors")
    assert trained(tmp_path, "gta-1", first, epochs=1)[2] == 0
    limit = 1.5 * file.stat().st_size
    trained(tmp_path, "gta-1", Targets(tmp_path / "targets/second", 0, limit), epochs=1)
    assert [path.name for path in (tmp_path / "targets").iterdir()] == ["second"]


def test_a_folder_that_is_removed_while_it_is_taken_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, lock = tmp_path / "targets/key", gta.targets.fcntl.flock

    def remove_first(file: IO[str], how: int) -> None:
        monkeypatch.setattr(gta.targets.fcntl, "flock", lock)
        shutil.rmtree(kept)
        lock(file, how)

    monkeypatch.setattr(gta.targets.fcntl, "flock", remove_first)
    targets = Targets(kept, 0, ROOM)
    targets._use()
    assert not _removed(kept)
    del targets
    assert _removed(kept)


def test_an_epoch_that_is_read_counts_whole_where_processes_share_it(tmp_path: Path) -> None:
    kept = [Targets(tmp_path / "targets/key", 0, ROOM) for _ in range(2)]
    recorder = LogitRecorder([0])

    def look(images: torch.Tensor) -> None:
        recorder.rows = {0: images.mean(1)}

    for targets in kept:
        with targets.epoch(0, 10):
            targets.instead(look, recorder)(torch.randn(5, 3, 2, 4))  # this process's part of ten
    assert [targets.read for targets in kept] == [0, 10]


def test_what_a_killed_process_has_left_counts(tmp_path: Path) -> None:
    left = tmp_path / "targets/key/.0-0-0.safetensors.gta-1.partial"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(1000))
    targets = Targets(tmp_path / "targets/key", 0, 1e6)
    assert targets._fits(999_000)
    assert not targets._fits(999_001)


def test_a_cell_writes_over_what_it_left_when_it_was_killed(tmp_path: Path) -> None:
    left = tmp_path / "targets/key/.0-0-0.safetensors.gta-1.partial"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(1000))
    trained(tmp_path, "gta-1", Targets(left.parent, 0, ROOM, "gta-1"), epochs=1)
    assert sorted(path.name for path in left.parent.iterdir()) == ["0-0-0.safetensors", "used"]


def test_an_epoch_that_is_too_large_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gta.targets, "LARGEST", 1000)
    trained(tmp_path, "gta-1", Targets(tmp_path / "targets/key", 0, ROOM))
    assert not (tmp_path / "targets").exists()


def test_where_nothing_can_be_written_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "targets").write_text("a file")
    caplog.set_level(logging.WARNING)
    alone, _, _ = trained(tmp_path, "gta-1", None)
    swept, _, saw = trained(tmp_path, "gta-1", Targets(tmp_path / "targets/key", 0, ROOM))
    assert alike(alone, swept)
    assert saw == 30
    (line,) = [each.message for each in caplog.records]
    assert line.startswith(f"{tmp_path}/targets/key/0-0-0.safetensors: the source's attention is not kept")


def cell(folder: Path, method: str, **changes: object) -> Cell:
    rows = noise(folder)
    section = settings(**{"targets_gb": 1.0} | changes)
    source = source_file(folder)
    return Cell(section, parse_method(method), packed(folder, rows), rows, rows, source, 32, pick_device())


def name_of(folder: Path, method: str, **changes: object) -> str:
    targets = cell(folder, method, **changes).targets(0, folder)
    return "none" if targets is None else targets.folder.name


def test_cells_share_what_their_source_sees_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = name_of(tmp_path, "gta-1")
    auto = "bf16" if takes_bf16("auto", pick_device()) else "fp32"
    assert name_of(tmp_path, "gta-1", precision="auto") == name_of(tmp_path, "gta-1", precision=auto)
    for method, changes in (
        ("gta-0.1", {}),
        ("gta-1+l2sp-0.01", {}),
        ("gta-1+lora", {}),
        ("gta-1", {"lr": 0.5, "epochs": 9, "drop_path": 0.0, "gta": {"distance": "kl", "decay": "linear"}}),
    ):
        assert name_of(tmp_path, method, **changes) == own
    others = [
        name_of(tmp_path, method, **changes)
        for method, changes in (
            ("gta-1+transmix", {}),
            ("gta-1+cutmix", {}),
            ("gta-1+cutmix", {"cutmix": {"alpha": 0.5}}),
            ("gta-1", {"batch_size": 5}),
            ("gta-1", {"crop_scale": [0.1, 1.0]}),
            ("gta-1", {"precision": "bf16"}),
            ("gta-1", {"accumulate": 2}),
            ("gta-1", {"gta": {"layers": [-1]}}),
        )
    ]
    monkeypatch.setattr("gta.precision.processor", lambda: "another")
    assert len({own, *others, name_of(tmp_path, "gta-1")}) == 10
    for method, changes in (
        ("baseline", {}),
        ("gta-0", {}),
        ("gta-1+at-1", {}),
        ("gta-1+delta-1", {}),
        ("gta-1", {"targets_gb": 0.0}),
    ):
        assert name_of(tmp_path, method, **changes) == "none"
