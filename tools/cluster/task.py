"""A stage as a worker gets it: a folder with task.json, to which the worker adds log and result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from dvc.stage.cache import _get_stage_hash
from dvc.stage.serialize import to_pipeline_file, to_single_stage_lockfile

from gta.atomic import atomic_file
from gta.params.section import read_params
from tools.cluster.grid import Grid, clear_begun

FOLDER = Path("runs/cluster")
"""What the cluster keeps; git and DVC ignore it."""


class Task(NamedTuple):
    """A stage that a worker runs."""

    stage: Any
    folder: Path
    """Named by the stage and by the hash of all that it depends on: that of DVC's run cache."""

    @property
    def name(self) -> str:
        return str(self.stage.addressing)

    @property
    def kind(self) -> str:
        return kind_of(self.name)

    def result(self) -> dict[str, Any]:
        """What its worker left: `status` (done, refused or failed), `text`, `seconds`."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        except FileNotFoundError:
            return {"status": "failed", "text": "its worker was killed", "seconds": 0.0}
        return found


def kind_of(name: str) -> str:
    """`finetune` of the stage `finetune@digits-100-gta-1`."""
    return name.rpartition(":")[2].partition("@")[0]


def kinds(grid: Grid) -> set[str]:
    """Of all stages, those of a matrix that is empty now too."""
    return {kind_of(stage.addressing) for stage in grid.steps} | set(read_params(Path("dvc.yaml"))["stages"])


def snapshot(grid: Grid) -> Path:
    """Copies the files that git keeps or would keep, as they lie here, for all clones of this call: an edit
    does not reach what was submitted before it. Outputs, and DVC's own two files, are left out."""
    base = FOLDER.resolve() / "code"
    folder = base / str(sum(1 for _ in base.glob("*")))
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    outs = [Path(out.fs_path) for out in grid.repo.index.outs]
    for name in filter(None, names.split("\0")):
        path = Path(name).absolute()
        if (
            path.is_file()
            and path.name not in ("dvc.yaml", "dvc.lock")
            and not {path, *path.parents} & {*outs}
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, folder / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(folder)], check=False, capture_output=True)
    return folder


def write_task(
    grid: Grid, stage: Any, code: Path | None, keep: list[str], environment: dict[str, str]
) -> Task:
    """Writes the stage for a worker. code: the snapshot of a clone, None for a stage that runs here.

    Tasks of the same stage with other dependencies are left as they are.
    """
    stage.save_deps()
    clear_begun(grid, stage)
    task = Task(stage, FOLDER.resolve() / "tasks" / stage.addressing / _get_stage_hash(stage)[:12])
    content: dict[str, Any] = {
        "name": task.name,
        "root": str(grid.repo.root_dir),
        "log": str(log_of(task.name).absolute()),
        "environment": environment,
    }
    if code is None:
        content |= {"cmd": stage.cmd, "wdir": str(stage.wdir)}
    else:
        content |= {"code": str(code), "keep": keep, **_pipeline(grid, stage), "config": _config(grid)}
    task.folder.mkdir(parents=True, exist_ok=True)
    (task.folder / "result.json").unlink(missing_ok=True)
    with atomic_file(task.folder / "task.json") as partial:
        partial.write_text(json.dumps(content, indent=1))
    return task


def log_of(name: str) -> Path:
    """What the stage has said, in all attempts."""
    return FOLDER / "log" / f"{name}.txt"


def _pipeline(grid: Grid, stage: Any) -> dict[str, Any]:
    """dvc.yaml and dvc.lock of a clone: the stage, and a stand-in for all those above it that has those of
    their outputs which the stage reads."""
    root = grid.repo.root_dir
    (content,) = to_pipeline_file(stage).values()
    wdir = os.path.relpath(stage.wdir, root)
    stages = {"stage": {**content, "wdir": wdir}}
    read = [dep.fs_path for dep in stage.deps]
    inputs: dict[str, Any] = {}
    for upper in grid.above(stage):
        locked = {item["path"]: item for item in to_single_stage_lockfile(upper)["outs"]}
        for out in upper.outs:
            if any(
                grid.repo.fs.isin_or_eq(out.fs_path, path) or grid.repo.fs.isin(path, out.fs_path)
                for path in read
            ):
                path = os.path.relpath(out.fs_path, root)
                inputs[path] = {**locked[out.def_path], "path": path}
    lock: dict[str, Any] = {}
    if inputs:
        stages["inputs"] = {"cmd": "true", "outs": list(inputs)}
        lock["inputs"] = {"cmd": "true", "outs": list(inputs.values())}
    return {"pipeline": {"stages": stages}, "lock": {"schema": "2.0", "stages": lock}}


def _config(grid: Grid) -> dict[str, dict[str, Any]]:
    """DVC's settings in a clone: no git, and this folder's cache, from which large files are linked."""
    own = grid.repo.config["cache"]
    cache = {"dir": grid.repo.cache.legacy.path, "type": "reflink,hardlink,symlink,copy"}
    if own.get("shared"):
        cache["shared"] = own["shared"]
    return {"core": {"no_scm": True, "autostage": False}, "cache": cache}
