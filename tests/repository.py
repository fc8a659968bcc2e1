"""A throw-away copy of this repository with a pipeline small enough for a test."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from gta.params.section import read_params

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@localhost",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@localhost",
    "OMP_NUM_THREADS": "1",
}


def small_params() -> dict[str, Any]:
    """The demo with four training images a class, one step an epoch and two seeds."""
    values = copy.deepcopy(read_params(ROOT / "params.yaml"))
    values["grid"] |= {"fractions": [50, 100], "methods": ["baseline", "gta-0.1"], "seeds": [0, 1]}
    values["download"]["digits"] |= {"train": 4, "test": 3}
    values["finetune"] |= {"epochs": 1, "min_steps": 0, "batch_size": 16, "checkpoint_seconds": 0}
    return values


def small_cluster(**changes: Any) -> dict[str, Any]:
    """cluster.yaml for a test: two workers of one thread; jobs small enough for any machine."""
    values = read_params(ROOT / "cluster.yaml") | {"workers": 2, "threads": 1}
    small = {"minutes": 10, "memory_gb": 0.1, "cpus": 1, "gpus": 0}
    values["slurm"] = {"default": values["slurm"]["default"] | small}
    return values | changes


class Repository:
    """A git and DVC repository in `path`, made of this one's files as they lie in the working tree."""

    prefix: list[str]
    """What stands before every command, to run it as another user."""

    def __init__(self, path: Path, values: dict[str, Any] | None = None) -> None:
        self.path, self.environment, self.prefix = path, dict(ENVIRONMENT), []
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in names.strip("\0").split("\0"):
            if (ROOT / name).is_file() and name != "dvc.lock" and not name.startswith("results/"):
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, path / name)
        self.write_params(values or small_params())
        self.run("git", "init", "-q")
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "start")

    @classmethod
    def at(cls, path: Path) -> Repository:
        """One that lies in `path` already."""
        found = cls.__new__(cls)
        found.path, found.environment, found.prefix = path, dict(ENVIRONMENT), []
        return found

    def copy(self, path: Path) -> Repository:
        """A second one in the same state."""
        shutil.copytree(self.path, path, symlinks=True)
        return self.at(path)

    def write_params(self, values: dict[str, Any]) -> None:
        with (self.path / "params.yaml").open("w") as stream:
            YAML().dump(values, stream)

    def run(self, *command: str, status: int = 0) -> str:
        """Runs a command there; returns stdout and stderr together."""
        code, said = self.attempt(*command)
        assert code == status, f"{' '.join(command)} exited {code}:\n{said}"
        return said

    def attempt(self, *command: str) -> tuple[int, str]:
        """Runs a command there, whatever comes of it; returns its status, stdout and stderr together."""
        with self.start(*command) as process:
            said, _ = process.communicate()
        return process.returncode, said

    def start(self, *command: str, quiet: bool = False) -> subprocess.Popen[str]:
        """Starts a command there, as the leader of a session; `quiet`: what it says is thrown away."""
        return subprocess.Popen(
            [*self.prefix, *command],
            cwd=self.path,
            env=self.environment,
            text=True,
            stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def repro(self, *options: str, status: int = 0) -> list[str]:
        """The names of the stages that `dvc repro` ran."""
        output = self.run("dvc", "repro", *options, status=status)
        return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]

    def files(self, folder: str) -> list[str]:
        """Paths of all files below `folder`, relative to it, sorted."""
        base = self.path / folder
        return sorted(path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file())
