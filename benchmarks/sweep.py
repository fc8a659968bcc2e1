"""Times one cell from its lists to its measures, and sweeps of up to six weights: here, and as six scripts.

    python -m benchmarks.sweep                          # the demo's data, in params.yaml
    python -m benchmarks.sweep --params configs/photos.yaml

In a temporary copy of the repository, whose data and source are made first and not timed. `a cell`: `dvc
repro`, that is finetune, evaluate and aggregate of one weight and one seed, alone on the machine. `2 weights,
here` to `6 weights, here`: `make cluster` with as many local workers as cluster.yaml says. `6 scripts`: one
after another benchmarks/script.py, which trains and measures accuracy alone. In turn, round after round;
medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from benchmarks.measuring import RESULTS, machine, over, suffix, write
from gta.params.section import read_params
from gta.precision import pick_device

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1, 3)
COUNTS = (2, 4, 6)
"""How many of the weights a sweep has."""
CELL = "a cell"
SCRIPTS = f"{len(WEIGHTS)} scripts"
SWEEPS = {f"{count} weights, here": count for count in COUNTS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    params = read_params(arguments.params)
    dataset, fraction = params["grid"]["datasets"][0], max(params["grid"]["fractions"])
    grid = {"datasets": [dataset], "fractions": [fraction], "seeds": [0]}
    with TemporaryDirectory() as folder:
        project = Path(folder, "project")
        copy(project)
        methods = [f"gta-{weight:g}" for weight in WEIGHTS]
        ready(project, params | {"grid": grid | {"methods": methods}}, "pack", "split", "source", "leaks")
        seconds: dict[str, list[float]] = {name: [] for name in (CELL, *SWEEPS, SCRIPTS)}
        for number in range(arguments.rounds):
            for name, values in seconds.items():
                here = Path(folder, f"{name} {number}")
                shutil.copytree(project, here, symlinks=True)
                if name != SCRIPTS:
                    count = SWEEPS.get(name, 1)
                    ready(here, params | {"grid": grid | {"methods": methods[:count]}}, "check")
                values.append(sum(timed(here, command) for command in commands(name, dataset, fraction)))
                shutil.rmtree(here)
    table = pd.DataFrame(
        {
            "what": name,
            "s": np.median(values),
            "first quartile": np.percentile(values, 25),
            "third quartile": np.percentile(values, 75),
            **over(values, seconds[CELL], "over a cell"),
        }
        for name, values in seconds.items()
    )
    facts = {
        "params": str(arguments.params),
        "data set": dataset,
        "fraction": fraction,
        "rounds": arguments.rounds,
        "cores": os.cpu_count(),
    }
    device = pick_device()
    write(table, facts | machine(device), arguments.output / f"sweep-{dataset}-{suffix(device)}")


def commands(name: str, dataset: str, fraction: int) -> list[list[str]]:
    """What is run for a row of the table."""
    if name == CELL:
        return [["dvc", "repro"]]
    if name in SWEEPS:
        return [[sys.executable, "-m", "tools.cluster"]]
    lists = ["--train", f"data/{dataset}/train/{fraction}.csv", "--val", f"data/{dataset}/val.csv"]
    files = ["--data", f"data/{dataset}", *lists, "--source", "sources/source.safetensors"]
    workers = ["--workers", str(min(8, os.cpu_count() or 1))]
    script = [sys.executable, "-m", "benchmarks.script", *files, *workers]
    return [[*script, "--weight", str(weight), "--output", f"{weight}.pt"] for weight in WEIGHTS]


def copy(folder: Path) -> None:
    """Every file that git knows, as a repository of its own."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.strip("\0").split("\0"):
        if name != "dvc.lock" and not name.startswith("results/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for command in (["git", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, cwd=folder, check=True)


def ready(folder: Path, params: dict[str, Any], *stages: str) -> None:
    """Writes the parameters, and runs stages that are not timed."""
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump(params, stream)
    timed(folder, ["dvc", "repro", *stages])


def timed(folder: Path, command: list[str]) -> float:
    """Seconds that a command takes. Raises RuntimeError, with what it said, where it fails."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
