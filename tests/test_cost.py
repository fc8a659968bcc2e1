"""The cost of training: only of the very training that made the weights, beside accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from study import grid, study_of, write_cells

from gta.cost import cost_rows, cost_table
from gta.errors import InputError

COST = {"seconds": 8.0, "memory_bytes": 3 * 2**30, "images": 400, "spared": 100}
COST |= {"memory_of": "process", "device": "a CPU"}


def leave(state: Path, runs: Path, method: str, seed: int, name: str = "a", **changes: object) -> Path:
    """What `finetune` leaves of a seed, with the history that `evaluate` has handed on."""
    folder = state / "pets/15" / method / f"seed{seed}-{name}"
    folder.mkdir(parents=True)
    history = pd.read_csv(runs / "pets/15" / method / "history.csv", dtype=str)
    history[history["seed"] == str(seed)].to_csv(folder / "history.csv", index=False)
    (folder / "cost.json").write_text(json.dumps(COST | changes))
    return folder


def rows(tmp_path: Path, state: Path) -> pd.DataFrame:
    study = study_of(tmp_path, grid())
    return cost_table(tmp_path, state, study.long).set_index(["method", "seed"])


def test_a_row_a_seed_and_empty_where_nothing_is_known(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    state = tmp_path / "state"
    assert rows(tmp_path, state)["seconds"].isna().all()
    leave(state, tmp_path, "gta-0.1", 1)
    found = rows(tmp_path, state)
    assert len(found) == 3 * 3
    assert found["seconds"].notna().sum() == 1
    known = found.loc["gta-0.1", 1]
    measured = ["seconds", "images_per_second", "spared", "memory_gib"]
    assert known[measured].tolist() == [8, 50, 0.25, 3]
    assert known[["memory_of", "device"]].tolist() == ["process", "a CPU"]


def test_another_training_of_the_seed_tells_nothing(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    state = tmp_path / "state"
    other = leave(state, tmp_path, "gta-0.1", 1, "older", seconds=99.0)
    history = pd.read_csv(other / "history.csv", dtype=str)
    history.assign(loss="0.123").to_csv(other / "history.csv", index=False)
    assert rows(tmp_path, state)["seconds"].isna().all()
    unfinished = leave(state, tmp_path, "gta-0.1", 1, "unfinished", seconds=98.0)
    (unfinished / "history.csv").unlink()
    assert rows(tmp_path, state)["seconds"].isna().all()
    leave(state, tmp_path, "gta-0.1", 1, "own")
    assert rows(tmp_path, state).loc["gta-0.1", 1]["seconds"] == 8


@pytest.mark.parametrize("text", ["{", "{}", "[]", json.dumps(COST | {"seconds": 0})])
def test_what_is_no_cost_is_refused(tmp_path: Path, text: str) -> None:
    write_cells(tmp_path, grid())
    (leave(tmp_path / "state", tmp_path, "baseline", 0) / "cost.json").write_text(text)
    with pytest.raises(InputError, match=r"seed0-a/cost\.json: expected what `finetune` writes"):
        rows(tmp_path, tmp_path / "state")


def test_the_table_by_hand(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    state = tmp_path / "state"
    for seed, seconds in enumerate((8.0, 10.0)):
        leave(state, tmp_path, "gta-0.1", seed, seconds=seconds)
    study = study_of(tmp_path, grid())
    plain, guided = cost_rows(cost_table(tmp_path, state, study.long), study.measured, 1)
    assert list(guided.values()) == [
        *("pets", "6 (15 %)", "GTA", "0.1", "70.0 ± 17.3", "9.0 ± 1.4", "45.0 ± 7.1", "25 ± 0"),
        *("3.00 ± 0.00", "process", "a CPU", "2 of 3"),
    ]
    assert list(plain.values())[4:] == ["60.0 ± 10.0", *["–"] * 6, "0 of 3"]
