"""The graph: a stage depends on exactly what it imports, and training cannot reach the test list."""

from __future__ import annotations

import ast
import hashlib
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from ruamel.yaml import YAML

from gta.imports import imported_files
from gta.params.evaluate import Evaluate
from gta.params.finetune import WITHOUT_EFFECT, Finetune
from gta.params.section import Section
from gta.params.segment import Segment
from stages.code import hashes

SCRIPTS = {
    "code": "code",
    "check": "check",
    "download": "download",
    "objects": "download",
    "split": "split",
    "pack": "pack",
    "leaks": "leaks",
    "source": "source",
    "finetune": "finetune",
    "evaluate": "evaluate",
    "segment_source": "segment",
    "segment": "segment",
    "aggregate": "aggregate",
}
"""The stages, and the script of each."""
WITHOUT = {"code", "check"}
"""Scripts without a section in params.yaml."""


@cache
def pipeline() -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())
    return values


def stage(name: str) -> dict[str, Any]:
    values: dict[str, Any] = pipeline()["stages"][name]
    return values


def paths(entries: list[Any]) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def test_one_section_a_script() -> None:
    assert list(pipeline()["stages"]) == list(SCRIPTS)
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert scripts == set(SCRIPTS.values())
    params = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    assert list(params) == [
        "grid",
        *(name for name in dict.fromkeys(SCRIPTS.values()) if name not in WITHOUT),
    ]


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "code"])
def test_a_stage_depends_on_the_code_of_its_script(name: str) -> None:
    script = SCRIPTS[name]
    assert f"python -m stages.{script} " in stage(name)["cmd"]
    code = [dep for dep in paths(stage(name)["deps"]) if dep.startswith("runs/code/")]
    assert code == [f"runs/code/{script}.txt"]
    assert code[0] in stage("code")["outs"]


def test_the_file_of_a_script_changes_with_what_it_imports_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("gta", "stages"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    before = {script: hashes(Path(f"stages/{script}.py")) for script in SCRIPTS.values()}
    with Path("gta/train.py").open("a") as stream:
        stream.write("# another line\n")
    after = {script: hashes(Path(f"stages/{script}.py")) for script in SCRIPTS.values()}
    assert [script for script in before if before[script] != after[script]] == ["finetune"]
    digest = hashlib.sha256(Path("gta/train.py").read_bytes()).hexdigest()
    assert f"{digest}  gta/train.py\n" in after["finetune"]


def test_objects_are_downloaded_as_data_sets_are() -> None:
    for key in ("deps", "outs", "params", "cmd"):
        download = str(stage("download")[key]).replace("item.dataset", "item.on")
        assert str(stage("objects")[key]) == download.replace("data/${item", "objects/${item")


@pytest.mark.parametrize(
    ("section", "without"),
    [(Finetune, WITHOUT_EFFECT), (Evaluate, {"workers"}), (Segment, {"workers", "on"})],
)
def test_a_cell_depends_on_every_key_with_an_effect_on_it(section: type[Section], without: set[str]) -> None:
    """Not on how many processes read images, nor on the other sets that are segmented."""
    name = section.__name__.lower()
    keys = {f"{name}.{key}" for key in section.model_fields if key not in without}
    assert set(stage(name)["params"]) == keys | {"grid.seeds"}
    assert name != "segment" or set(stage("segment_source")["params"]) == keys


def test_the_graph_sees_what_python_sees(tmp_path: Path) -> None:
    """An import in a function counts, one for type checking does not; it goes on from file to file."""
    script = tmp_path / "script.py"
    script.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import gta.train\n"
        "def main():\n    from gta.datasets import digits\n"
    )
    assert imported_files(script, ROOT) == {
        "gta/datasets/digits.py",
        "gta/datasets/scenes.py",
        "gta/params/digits.py",
        "gta/params/section.py",
        "gta/errors.py",
    }


def test_package_files_hold_no_code() -> None:
    for path in ROOT.glob("gta/**/__init__.py"):
        body = ast.parse(path.read_text()).body
        assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body), path


def test_the_stages_package_file_holds_nothing_that_a_result_depends_on() -> None:
    body = ast.parse((ROOT / "stages/__init__.py").read_text()).body
    docstring, *imports, condition = body
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(node) for node in imports] == ["import gc", "import sys"]
    assert ast.unparse(condition) == "if sys.argv[0] == '-m':\n    gc.disable()"


def ancestors(name: str) -> set[str]:
    """Stages and data files that `name` depends on, at any depth."""
    made_by = {out: other for other in SCRIPTS for out in paths(stage(other).get("outs", []))}
    found: set[str] = set()
    todo = [name]
    while todo:
        for dep in paths(stage(todo.pop())["deps"]):
            if dep in found:
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
    shown = {"aggregate", "evaluate", "segment"}
    for name in ("download", "split", "source", "finetune"):
        params = " ".join(paths(stage(name)["params"]))
        assert not any(section in params for section in shown), name
        assert not [dep for dep in paths(stage(name)["deps"]) if "tables" in dep or "figures" in dep]


def test_every_output_and_argument_is_named_by_its_cell() -> None:
    for name, first in (("finetune", []), ("evaluate", []), ("segment", ["on"])):
        axes = [*first, "dataset", "fraction", "method"]
        assert list(stage(name)["matrix"]) == axes
        cell = "/".join(f"${{item.{axis}}}" for axis in axes)
        assert all(out.endswith(f"{name}/{cell}") for out in paths(stage(name)["outs"]))


def test_the_papers_grid_stays_small_enough_for_dvc() -> None:
    params = YAML(typ="safe", pure=True).load((ROOT / "configs/paper.yaml").read_text())
    grid, sets = params["grid"], len(params["segment"]["on"])
    datasets = len(grid["datasets"])
    cells = datasets * len(grid["fractions"]) * len(grid["methods"])
    assert (2 + sets) * cells + 4 * datasets + 2 * sets + 4 <= 600
