"""The pipeline's graph: deps are exactly what is imported, and training cannot reach the test list."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from importgraph import ROOT, imported_files
from ruamel.yaml import YAML

STAGES = ["check", "download", "split", "source", "finetune", "evaluate", "aggregate"]


@cache
def pipeline() -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())
    return values


def stage(name: str) -> dict[str, Any]:
    values: dict[str, Any] = pipeline()["stages"][name]
    return values


def paths(entries: list[Any]) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def test_one_script_a_stage_and_one_section_a_stage() -> None:
    assert list(pipeline()["stages"]) == STAGES
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert scripts == set(STAGES)
    params = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    assert list(params) == ["grid", *(name for name in STAGES if name != "check")]


@pytest.mark.parametrize("name", STAGES)
def test_code_deps_are_the_script_and_what_it_imports(name: str) -> None:
    code = [dep for dep in paths(stage(name)["deps"]) if dep.endswith(".py")]
    assert code == [f"stages/{name}.py", *sorted(imported_files(ROOT / f"stages/{name}.py"))]
    assert f"python -m stages.{name} " in stage(name)["cmd"]


def test_the_graph_sees_what_python_sees(tmp_path: Path) -> None:
    """An import in a function counts, one for type checking does not; it goes on from file to file."""
    script = tmp_path / "script.py"
    script.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import gta.train\n"
        "def main():\n    from gta.datasets import digits\n"
    )
    assert imported_files(script) == {
        "gta/datasets/digits.py",
        "gta/datasets/scenes.py",
        "gta/params/digits.py",
        "gta/params/section.py",
        "gta/errors.py",
    }


def test_package_files_hold_no_code() -> None:
    for path in [*ROOT.glob("gta/**/__init__.py"), ROOT / "stages/__init__.py"]:
        body = ast.parse(path.read_text()).body
        assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body), path


def ancestors(name: str) -> set[str]:
    """Stages and data files that `name` depends on, at any depth."""
    made_by = {out: other for other in STAGES for out in paths(stage(other).get("outs", []))}
    found: set[str] = set()
    todo = [name]
    while todo:
        for dep in paths(stage(todo.pop())["deps"]):
            if dep.endswith(".py") or dep in found:
                continue
            found.add(dep)
            todo += [other for out, other in made_by.items() if dep == out or dep.startswith(f"{out}/")]
    return found


def test_training_has_no_path_to_the_test_list() -> None:
    test_lists = {out for out in paths(stage("split")["outs"]) if "test" in out}
    assert test_lists == {"data/${item.dataset}/test.csv"}
    reached = ancestors("finetune")
    assert "data/${item.dataset}/train/${item.fraction}.csv" in reached  # the walk does walk
    assert "data/${item.dataset}/index.csv" in reached
    assert not test_lists & reached
    assert "test" not in stage("finetune")["cmd"]
    assert test_lists <= ancestors("evaluate")


def test_nothing_that_trains_depends_on_how_it_is_shown() -> None:
    shown = {"aggregate", "evaluate"}
    for name in ("download", "split", "source", "finetune"):
        params = " ".join(paths(stage(name)["params"]))
        assert not any(section in params for section in shown), name
        assert not [dep for dep in paths(stage(name)["deps"]) if "tables" in dep or "figures" in dep]


def test_every_output_and_argument_is_named_by_its_cell() -> None:
    for name in ("finetune", "evaluate"):
        cell = "${item.dataset}/${item.fraction}/${item.method}"
        assert list(stage(name)["matrix"]) == ["dataset", "fraction", "method"]
        assert all(out.endswith(cell) for out in paths(stage(name)["outs"]))


def test_the_papers_grid_stays_small_enough_for_dvc() -> None:
    grid = YAML(typ="safe", pure=True).load((ROOT / "configs/paper.yaml").read_text())["grid"]
    datasets, cells = (
        len(grid["datasets"]),
        len(grid["datasets"]) * len(grid["fractions"]) * len(grid["methods"]),
    )
    assert 2 * cells + 2 * datasets + 3 <= 600
