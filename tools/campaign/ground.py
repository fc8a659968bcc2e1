"""The ground of the campaign: a small finished study, with data and weights from a server of our own."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from layouts import LAYOUTS, mirror_of, official
from PIL import Image
from repository import Repository, small_params
from ruamel.yaml import YAML
from serving import Site, serving, stored

from tools.mend import entries, joined

SOURCE = Path("assets/demo_source.safetensors")
OWN_RUN = {"results/cost.csv", "results/report.html"}
"""What tells of one run and machine: no output of any stage."""
FORGOTTEN = ("runs/state/", "runs/targets/", "downloads/")
"""What stages keep for a second run beside their outputs."""
RUN = re.compile(r"\.dvc/cache/runs/../\w{64}/\w{64}")
"""A whole entry of the run cache; those of other parameters may stay."""
PARAMS: dict[str, Any] = {
    "grid": {"fractions": [100], "methods": ["gta-0.1"]},
    "segment": {"on": ["birds"], "images": 2},
    "finetune": {"batch_size": 10, "epochs": 8},
}


@dataclass
class Ground:
    """A study in `repository`, of which `targets` (everything where empty) are finished."""

    repository: Repository
    site: Site
    targets: tuple[str, ...]
    files: dict[str, str]
    """Undisturbed: path -> hash, of outputs, cache and lock file."""
    seconds: dict[str, float]
    """How long each stage ran, with what DVC does around it."""

    @property
    def path(self) -> Path:
        path: Path = self.repository.path
        return path

    def stages(self) -> list[str]:
        """Names of those that are finished."""
        return list(entries((self.path / "dvc.lock").read_text()))

    def named(self, start: str) -> str:
        """The first stage whose name starts so; empty where there is none."""
        return next((name for name in self.stages() if name.startswith(start)), "")

    def forget(self, stage: str) -> None:
        """Makes a stage stale, as if it had not run: its lock entry, its run cache, states and downloads."""
        stages = entries((self.path / "dvc.lock").read_text())
        stages[stage] = stages[stage].replace("    cmd: ", "    cmd: true; ", 1)
        (self.path / "dvc.lock").write_text(joined(stages))
        command = YAML(typ="safe").load(stages[stage])[stage]["cmd"].removeprefix("true; ")
        for path in [*(self.path / ".dvc/cache/runs").glob("*/*/*")]:
            if YAML(typ="safe").load(path.read_text())["cmd"] == command:
                shutil.rmtree(path.parent)
        for folder in FORGOTTEN:
            shutil.rmtree(self.path / folder, ignore_errors=True)

    def repair(self) -> tuple[int, str]:
        """What `make repro` says and does, of the targets."""
        status, said = 0, ""
        for command in (("python", "-m", "tools.mend"), ("dvc", "repro", *self.targets)):
            status, more = self.repository.attempt(*command)
            said += more
            if status:
                break
        return status, said

    def lost(self, stages: set[str], status: int, said: str) -> str:
        """What a repair left undone: it failed, computed more again than the stages that had to be, or not
        all is as it was."""
        if status:
            return f"`make repro` exits with {status}: {' | '.join(said.splitlines()[-4:])}"
        again = set(re.findall(r"Running stage '(.+?)'", said)) - stages
        found = [f"{name} was computed again" for name in sorted(again)] + self.differences()
        return "; ".join(found[:4])

    def differences(self) -> list[str]:
        """Of the study from what it was, in words. Only what a stage has to make can be missing."""
        now, words = snapshot(self.path), []
        for name in sorted(now.keys() | self.files.keys()):
            if name not in now:
                words += [] if name.startswith(FORGOTTEN) else [f"{name} is missing"]
            elif name not in self.files:
                words += [] if RUN.fullmatch(name) else [f"{name} is left over"]
            elif now[name] != self.files[name]:
                words.append(f"{name} differs")
        return words

    @contextmanager
    def spare(self) -> Iterator[Ground]:
        """A copy beside it, for as long as the context is open."""
        path = self.path.with_name("spare")
        try:
            yield self.copy(path)
        finally:
            shutil.rmtree(path)

    def restore(self, spare: Ground) -> None:
        """Puts a copy of another in the place of this study."""
        shutil.rmtree(self.path)
        spare.copy(self.path)

    def copy(self, path: Path) -> Ground:
        return replace(self, repository=self.repository.copy(path))


def snapshot(path: Path) -> dict[str, str]:
    """Path -> hash of every file that the study's state consists of."""
    found = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if (
            not file.is_file()
            or name in OWN_RUN
            or re.match(r"\.git/|\.dvc/(tmp/|config\.local)|runs/cluster/|(.*/)?__pycache__/", name)
        ):
            continue
        what = b"" if name.endswith("/cost.json") else file.read_bytes()
        found[name] = hashlib.sha256(what).hexdigest()
    return found


@contextmanager
def ground(path: Path, targets: tuple[str, ...] = ()) -> Iterator[Ground]:
    """Builds the study in `path`, all of it or the targets; its server runs meanwhile."""
    path.mkdir(parents=True, exist_ok=True)
    with serving() as site:
        values = small_params()
        for section, changes in PARAMS.items():
            values[section] |= changes
        values["download"]["digits"] |= {"train": 3, "test": 2}
        archives = mirror_of(birds(), path / "mirror")
        for archive in archives:
            archive["urls"] = [f"{site.url}/{place}/{archive['name']}" for place in ("first", "second")]
        values["download"]["birds"] = official("cub", archives, mirrors=[])
        values["source"]["weights"] = f"{site.url}/{SOURCE.name}"
        repository = Repository(path / "study", values)
        site.answers = {f"/{SOURCE.name}": [stored((repository.path / SOURCE).read_bytes())]}
        for archive in archives:
            whole = stored((path / "mirror" / archive["name"]).read_bytes())
            site.answers |= {f"/{place}/{archive['name']}": [whole] for place in ("first", "second")}
        seconds = _first_run(repository, targets)
        repository.run("git", "add", "-A")
        repository.run("git", "commit", "-qm", "run")
        yield Ground(repository, site, targets, snapshot(repository.path), seconds)


def birds() -> dict[str, dict[str, bytes]]:
    """CUB's archives, with photographs that are large enough to be cut anywhere."""
    archives = {name: dict(files) for name, files in LAYOUTS["cub"][0].items()}
    rng = np.random.default_rng(0)
    for name, content in archives["CUB_200_2011.tgz"].items():
        if name.endswith(".jpg"):
            with Image.open(io.BytesIO(content)) as picture:
                noise = rng.integers(0, 256, (picture.height, picture.width, 3), np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(noise).save(buffer, "PNG")
            # readers keep what follows the picture's end
            archives["CUB_200_2011.tgz"][name] = buffer.getvalue() + rng.bytes(100_000)
    return archives


def _first_run(repository: Repository, targets: tuple[str, ...]) -> dict[str, float]:
    """Runs the pipeline, and times its stages by when DVC names them."""
    started: dict[str, float] = {}
    with repository.start("dvc", "repro", *targets) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Running stage"):
                started[line.split("'")[1]] = time.monotonic()
    ends = [*list(started.values())[1:], time.monotonic()]
    if process.returncode:
        raise RuntimeError("the study does not run undisturbed:\n" + "".join(lines[-30:]))
    return {stage: end - start for (stage, start), end in zip(started.items(), ends, strict=True)}
