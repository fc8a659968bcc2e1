"""The stage `aggregate`: exactly its files, all or nothing, and a part of the grid with what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML
from study import FILES, LEAKS, SETTINGS, TEST, VAL, grid, write_cells
from test_report import Page

import stages.aggregate
from gta import evaluated
from gta.errors import InputError
from gta.evaluated import Missing
from gta.params.grid import Grid
from gta.params.section import read_params

Aggregated = Callable[..., dict[str, bytes]]


def contents(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> file."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def aggregate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Aggregated:
    """Runs the stage on `runs` with a grid; returns the output's files."""
    committed = read_params(root / "params.yaml")

    def run(of: Grid, *options: str, output: str = "results") -> dict[str, bytes]:
        sections = {"grid": of.model_dump(), "aggregate": SETTINGS.model_dump()}
        sections |= {name: committed[name] for name in ("evaluate", "segment")}
        YAML(typ="safe", pure=True).dump(sections, tmp_path / "params.yaml")
        places = [
            "--runs",
            "runs",
            "--segments",
            "segments",
            "--leaks",
            "leaks",
            "--state",
            "state",
            "--output",
            output,
        ]
        for dataset in of.datasets:
            LEAKS.drop(columns="dataset").to_csv(tmp_path / f"leaks/{dataset}.csv", index=False)
        monkeypatch.setattr("sys.argv", ["aggregate", *places, *options])
        stages.aggregate.main()
        return contents(tmp_path / output)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaks").mkdir()
    return run


def test_it_writes_exactly_its_files_and_again_the_same_bytes(aggregate: Aggregated, tmp_path: Path) -> None:
    write_cells(tmp_path / "runs", grid())
    first = aggregate(grid())
    assert sorted(first) == sorted(FILES)
    assert aggregate(grid()) == first
    write_cells(tmp_path / "runs", grid(), test={**TEST, "baseline": [0.1, 0.1, 0.1]})
    (tmp_path / "runs/pets/15/gta-1/seeds.csv").unlink()
    with pytest.raises(InputError, match="no such file"):
        aggregate(grid())
    assert contents(tmp_path / "results") == first


def test_a_data_set_that_is_gone_leaves_no_figure(aggregate: Aggregated, tmp_path: Path) -> None:
    two = grid(datasets=["pets", "cars"])
    write_cells(tmp_path / "runs", two)
    assert {"layers/cars.png", "confusion/cars.svg"} <= aggregate(two).keys()
    assert sorted(aggregate(grid())) == sorted(FILES)


def test_a_part_of_the_grid_is_shown_and_the_rest_is_named(
    aggregate: Aggregated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One cell is missing, one has a seed less, and of one data set there is nothing."""
    whole = grid([*TEST, "probe"], fractions=(15, 100), datasets=["pets", "cars"])
    extra = {"probe": [0.2, 0.2, 0.2]}
    write_cells(tmp_path / "runs", whole, TEST | extra, VAL | extra)
    results = aggregate(whole)
    shutil.rmtree(tmp_path / "runs/cars")
    shutil.rmtree(tmp_path / "runs/pets/15/gta-1")
    path = tmp_path / "runs/pets/100/probe/seeds.csv"
    rows = pd.read_csv(path)
    rows[rows["seed"] != 1].to_csv(path, index=False)
    with pytest.raises(InputError, match="no such file"):
        aggregate(whole)
    part = aggregate(whole, "--partial", output="part")
    assert contents(tmp_path / "results") == results  # untouched
    named = part["partial.txt"].decode().splitlines()
    assert named[:2] == ["pets, 15 %, gta-1, seeds 0, 1, 2", "pets, 100 %, probe, seed 1"]
    assert len(named) == 2 + 8
    assert [f"missing: {name}" for name in named] == capsys.readouterr().err.splitlines()
    page = Page(part["report.html"].decode())
    assert page.rows[:2] == [
        ["data set", "training images", "method", "seeds"],
        ["pets", "15 %", "gta-1", "0, 1, 2"],
    ]
    shown = part["report.html"].decode()
    assert shown.index(">Missing</h2>") < shown.index(">Test accuracy</h2>")
    assert ">Missing</h2>" not in results["report.html"].decode()
    text = part["table.md"].decode()
    assert "validation (10 images), 1 of 2 weights so far" in text
    assert "2, baseline 3, pairs 2" in text
    assert set(pd.read_csv(tmp_path / "part/table.csv")["dataset"]) == {"pets"}
    assert json.loads(part["metrics.json"])["pets"]["f15"]["gta"]["weight"] == 0.1
    write_cells(tmp_path / "runs", whole, TEST | extra, VAL | extra)
    again = aggregate(whole, "--partial", output="part")  # over the earlier part
    assert again["partial.txt"] == b""
    assert capsys.readouterr().err == "nothing is missing\n"
    assert {name: file for name, file in again.items() if name != "partial.txt"} == results


@pytest.mark.parametrize("left", [["gta-0.1"], ["baseline"], ["gta-1", "gta-0.1"]])
def test_whichever_methods_are_there_the_page_is_made(
    aggregate: Aggregated, tmp_path: Path, left: list[str]
) -> None:
    write_cells(tmp_path / "runs", grid(left))
    part = aggregate(grid(), "--partial")
    assert sorted(part) == sorted([*FILES, "partial.txt"])
    assert len(part["partial.txt"].splitlines()) == 3 - len(left)


def test_nothing_at_all_is_refused(aggregate: Aggregated, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runs: expected cells of the grid .*, found none"):
        aggregate(grid(), "--partial")
    write_cells(tmp_path / "runs", grid(seeds=1))
    with pytest.raises(InputError, match="found none"):
        aggregate(grid(datasets=["pets"], seeds=1).model_copy(update={"seeds": [7]}), "--partial")
    assert not (tmp_path / "results").exists()


def test_a_part_is_never_written_over_something_else(aggregate: Aggregated, tmp_path: Path) -> None:
    write_cells(tmp_path / "runs", grid())
    before = aggregate(grid())
    with pytest.raises(InputError, match=r"results: expected a new folder, or one with .*partial\.txt"):
        aggregate(grid(), "--partial")
    assert contents(tmp_path / "results") == before


def test_rows_of_other_seeds_are_left_out(tmp_path: Path) -> None:
    write_cells(tmp_path, grid())
    two = grid(seeds=2)
    long, missing = evaluated.read_partly(tmp_path, two)
    assert set(long["seed"]) == {0, 1}
    assert missing == []
    assert Missing("pets", 15, "gta-1", (2,)).named() == "pets, 15 %, gta-1, seed 2"
