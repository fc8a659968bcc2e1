"""Measures what DVC costs as the grid grows: this pipeline's own dvc.yaml with stub commands.

    python -m tools.growth 100 300 1000 2000        # writes docs/growth.md

A project is built in a temporary folder: the real dvc.yaml and code files, each command replaced by one that
writes its outputs' names into them. The paper's grid is run whole, by `dvc repro` and by `make cluster` with
one worker, and timed by the clock: on a quiet machine, please.

For each number of cells DVC's own code makes the lock entries of all stages at once (a first `dvc repro`
would take days at the upper end). Then the real `dvc repro` is timed: once with nothing to do, which also
proves the lock right, and once with one cell taken out, which gives the cost of a stage at that size. These
times are CPU seconds, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import chdir
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from dvc.repo import Repo
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils.serialize import dump_yaml
from ruamel.yaml import YAML
from tqdm import tqdm

from benchmarks.measuring import RESULTS
from gta.params.section import read_params
from gta.precision import described
from gta.splits import share

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs/growth.md"
STEPS = "step-vit_small_patch16_224-128-NVIDIA-H200.json"
"""Of benchmarks/results: how fast the paper's grid trains."""
FIRST = {
    "`dvc repro`": ["dvc", "repro"],
    "`make cluster`, one worker": [sys.executable, "-m", "tools.cluster"],
}
"""Ways to run the paper's grid."""
DATASETS, FRACTIONS = 5, [15, 30, 50, 100]
"""Of the grid, as in configs/paper.yaml; the methods make up the number of cells."""
EACH = ("download", "split", "pack", "leaks", "finetune", "evaluate")
"""Stages of a data set's own; the others belong to the whole grid."""
SPLITS = {"one file": 1, "one a data set": DATASETS}
"""Layout -> number of pipeline files that hold the cells."""
FAR = 20_000
"""Cells that are too many to measure."""
NUMBERS = ["cells", "stages", "lock", "nothing", "stage"]
HEADINGS = {
    "measured": "measured",
    "cells": "cells",
    "stages": "stages",
    "lock": "lock, MB",
    "nothing": "nothing to do, s",
    "stage": "one stage more, s",
    "first": "first run, h (fitted)",
}
PAGE = """# What DVC costs as the grid grows

tools/growth.py wrote this: DVC {version}, this pipeline's own dvc.yaml, and stub commands, so that nothing
counts but what lies between the stages' own work. The machine: {machine}.

## The paper's grid

configs/paper.yaml, {stages} stages, run whole, by the clock. The share is that of the {hours:.1f} hours which
its fine-tuning would take on one GPU at the rate of benchmarks/results/
{steps}. It takes longer: with batches of 64, not 128, with
`deterministic`, which the benchmark leaves off, with TransMix and validation.

{first}

After every stage `dvc repro` reads its lock file and writes it anew, while nothing else runs. `make cluster`
([cluster.md](cluster.md)) writes it now and then, beside the stages.

## As the grid grows

Five data sets and four fractions; CPU seconds. A first run is the sum of a line fitted to the cost of one
stage. Rows that were not measured are extrapolated: an order of magnitude.

{tables}

A stage costs `dvc repro` in proportion to the stages of its lock file, and a first run to their square. A
pipeline file a data set is `pipelines/<data set>/dvc.yaml`, with `vars: [../../params.yaml]`, and
`wdir: ../..` in each stage; what belongs to the whole grid stays in `dvc.yaml`. The next step is one a data
set and fraction, then a clone for each part, with one remote and its run cache.
"""


class Cost(NamedTuple):
    """One row of the table. Times in CPU seconds, sizes in MB."""

    cells: int
    layout: str
    stages: int
    lock: float
    """All lock files."""
    nothing: float
    """`dvc repro` with nothing to do."""
    stage: float
    """Each further stage that it runs, beyond the stub's own shell."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cells", type=int, nargs="+", help="grids to measure, by their number of cells")
    arguments = parser.parse_args()
    paper = read_params(ROOT / "configs/paper.yaml")
    hours = training(paper, json.loads((RESULTS / STEPS).read_text()))
    first = first_runs(paper)
    print(hours, first, sep="\n", flush=True)
    rows = []
    for count in arguments.cells:
        for layout, files in SPLITS.items():
            with TemporaryDirectory() as folder, chdir(folder):
                rows.append(measure(count, layout, files))
            print(rows[-1], flush=True)
        if len(rows) > len(SPLITS):  # for a line, two points
            REPORT.write_text(report(first, hours, pd.DataFrame(rows)), encoding="utf-8")


def first_runs(params: dict[str, Any]) -> pd.DataFrame:
    """Seconds by the clock of a first run of these params, and of a `dvc repro` after it, in each way."""
    rows = []
    for name, command in FIRST.items():
        with TemporaryDirectory() as folder, chdir(folder):
            build(params, 1)
            started = time.perf_counter()
            cpu_seconds(command)
            ended = time.perf_counter()
            _expect_nothing(cpu_seconds(["dvc", "repro"])[1])
            nothing = time.perf_counter() - ended
            stages = len(YAML(typ="safe").load(Path("dvc.lock"))["stages"])
        rows.append({"by": name, "stages": stages, "first": ended - started, "nothing": nothing})
    return pd.DataFrame(rows)


def training(params: dict[str, Any], steps: dict[str, Any]) -> float:
    """Hours of fine-tuning alone with these params, as if an image cost what it does in a benchmark's batch,
    and each data set were of one class. steps: what benchmarks.step wrote.
    """
    per_image = {row["step"]: row["ms"] / 1000 / steps["batch"] for row in steps["rows"]}
    grid, settings = params["grid"], params["finetune"]
    images = 0
    for name in grid["datasets"]:
        train = params["download"][name]["train"]
        for fraction in grid["fractions"]:
            count = share(train - share(train, params["split"]["val"]), fraction)
            batches = -(-count // settings["batch_size"])
            images += count * max(settings["epochs"], -(-settings["min_steps"] // batches))
    each = sum(per_image["GTA" if method.startswith("gta") else "plain"] for method in grid["methods"])
    return float(images * each * len(grid["seeds"]) / 3600)


def measure(cells: int, layout: str, files: int) -> Cost:
    """Builds the project in the current folder, and times DVC in it."""
    methods = [f"gta-{number}" for number in range(1, cells // (DATASETS * len(FRACTIONS)) + 1)]
    names = [f"d{number}" for number in range(DATASETS)]
    params = read_params(ROOT / "params.yaml")
    params["grid"] |= {"datasets": names, "fractions": FRACTIONS, "methods": methods}
    params["download"] = {name: {"reader": "digits"} for name in names}
    build(params, files)
    stages = lock_all()
    size = sum(path.stat().st_size for path in Path().rglob("dvc.lock")) / 1e6
    nothing, said = cpu_seconds(["dvc", "repro"])
    _expect_nothing(said)
    ran = forget(f"d0/{FRACTIONS[0]}/{methods[-1]}")
    more, said = cpu_seconds(["dvc", "repro"])
    if said.count("Running stage") != ran:  # `aggregate` finds what it had
        raise RuntimeError(f"expected {ran} stages to run:\n{said[-2000:]}")
    return Cost(cells, layout, stages, size, nothing, (more - nothing) / ran)


def build(params: dict[str, Any], files: int) -> None:
    """Writes the project: its parameters, pipeline files and code files."""
    names = params["grid"]["datasets"]
    dump_yaml("params.yaml", params)
    dump_yaml("cluster.yaml", read_params(ROOT / "cluster.yaml") | {"workers": 1})
    stages: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for part in ("gta", "stages"):
        shutil.copytree(ROOT / part, part, ignore=shutil.ignore_patterns("__pycache__"))
    Path(".gitignore").write_text("/data/\n/objects/\n/runs/\n/sources/\n/results/\n__pycache__/\n")
    for command in ("git init -q", "dvc init -q", "dvc config core.analytics false"):
        subprocess.run(command.split(), check=True)
    for stage in stages.values():
        written = [*stage["outs"], *stage.get("metrics", [])]
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in written]
        stage["cmd"] = " && ".join(map(_stub, outs))
    if files == 1:
        dump_yaml("dvc.yaml", {"stages": stages})
        return
    dump_yaml("dvc.yaml", {"stages": {key: stage for key, stage in stages.items() if key not in EACH}})
    for name in names:
        own = {key: stages[key] | {"wdir": "../..", "matrix": dict(stages[key]["matrix"])} for key in EACH}
        for stage in own.values():
            stage["matrix"]["dataset"] = [name]
        Path("pipelines", name).mkdir(parents=True)
        dump_yaml(f"pipelines/{name}/dvc.yaml", {"vars": ["../../params.yaml"], "stages": own})


def _stub(out: str) -> str:
    """Writes the output's name into it. One without a suffix is a folder, of a list a fraction or a file."""
    name = Path(out).name.removeprefix("${item.")
    inside = [f"{fraction}.csv" for fraction in FRACTIONS] if name == "train" else ["file"]
    files = [out] if "." in name else [f"{out}/{file}" for file in inside]
    return " && ".join([f"mkdir -p {Path(files[0]).parent}", *(f"echo {out} > {file}" for file in files)])


def lock_all() -> int:
    """Runs every command, and writes each pipeline file's lock in one go. Returns the number of stages."""
    with Repo() as repo, repo.lock:
        stages = list(repo.index.stages)
        for stage in stages:
            subprocess.run(["sh", "-c", stage.cmd], check=True, cwd=stage.wdir)
        locks: dict[Path, dict[str, Any]] = {}
        for stage in tqdm(stages, desc="locking", disable=None):
            stage.save()
            stage.commit()
            entry = to_single_stage_lockfile(stage)
            locks.setdefault(Path(stage.path).with_suffix(".lock"), {})[stage.name] = entry
        for path, entries in locks.items():
            dump_yaml(path, {"schema": "2.0", "stages": entries})
    return len(stages)


def forget(cell: str) -> int:
    """Takes a cell's stages out of their lock, with their outputs. Returns how many they are."""
    path = next(iter(sorted(Path("pipelines").rglob("dvc.lock"))), Path("dvc.lock"))
    lock = YAML(typ="safe").load(path)
    gone = [name for name in lock["stages"] if name.partition("@")[2] == cell.replace("/", "-")]
    for name in gone:
        del lock["stages"][name]
    dump_yaml(path, lock)
    for place in Path("runs").glob(f"*/{cell}"):
        shutil.rmtree(place)
    shutil.rmtree(".dvc/cache/runs")
    return len(gone)


def cpu_seconds(command: list[str]) -> tuple[float, str]:
    """CPU seconds of a command and its children, and what it said. Raises RuntimeError where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout + done.stderr


def _expect_nothing(said: str) -> None:
    if "up to date" not in said:
        raise RuntimeError(f"expected nothing to do:\n{said[-2000:]}")


def extended(costs: pd.DataFrame) -> pd.DataFrame:
    """One layout's rows by cells, with `first` (CPU hours of a first `dvc repro`) and, last, a row for FAR.

    A stage costs a + b stages: the lock is read and written whole after each. a and b are fitted to all rows;
    a first run adds a stage's cost at every size on the way. Lock and a run with nothing to do grow in
    proportion, from the largest row.
    """
    slope, start = np.polyfit(costs["stages"], costs["stage"], 1)
    largest = costs.iloc[-1]
    times = FAR / largest["cells"]
    far = largest[["stages", "lock", "nothing"]] * times
    far["cells"], far["stage"] = FAR, start + slope * far["stages"]
    rows: pd.DataFrame = pd.concat([costs, far.to_frame().T], ignore_index=True).astype(
        dict.fromkeys(NUMBERS, float)
    )
    first = start * rows["stages"] + slope * rows["stages"] ** 2 / 2
    return rows.assign(first=first / 3600)


def report(first: pd.DataFrame, hours: float, costs: pd.DataFrame) -> str:
    """The page docs/growth.md. first: of first_runs; hours: of training; costs: rows of Cost."""
    tables = [
        f"### {layout.capitalize()}\n\n"
        + extended(costs[costs["layout"] == layout].drop(columns="layout"))
        .assign(measured=lambda rows: np.where(rows["cells"] < FAR, "yes", "no"))
        .rename(columns=HEADINGS)[list(HEADINGS.values())]
        .to_markdown(index=False, floatfmt=["", ".0f", ".0f", ".1f", ".0f", ".1f", ".1f"])
        for layout in SPLITS
    ]
    whole = pd.DataFrame(
        {
            "by": first["by"],
            "first run, h": first["first"] / 3600,
            "of training, %": first["first"] / 3600 / hours * 100,
            "`dvc repro` after it, s": first["nothing"],
        }
    )
    return PAGE.format(
        version=version("dvc"),
        machine=described(torch.device("cpu")).partition(";")[0],
        stages=first["stages"].iloc[0],
        hours=hours,
        steps=STEPS,
        first=whole.to_markdown(index=False, floatfmt=["", ".2f", ".1f", ".0f"]),
        tables="\n\n".join(tables),
    )


if __name__ == "__main__":
    main()
