"""The settings of `make cluster`: cluster.yaml."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from gta.errors import InputError
from gta.params.section import Section, parse, read_params

SETTINGS = Path("cluster.yaml")


class Resources(Section):
    """What a job asks Slurm for."""

    partition: str | None
    """`null`: the cluster's default."""
    minutes: PositiveInt
    """Time limit of a job. One that needs more goes on from its checkpoint in another."""
    warn_seconds: PositiveInt
    """How long before the limit a job is told to save: longer than an epoch. Slurm may be a minute early."""
    memory_gb: PositiveFloat
    cpus: PositiveInt
    gpus: NonNegativeInt
    """On one node."""
    flags: dict[str, str | int | Literal[True]]
    """Further options of sbatch, without the dashes; `true` for one without a value."""

    @model_validator(mode="after")
    def _room_to_warn(self) -> Resources:
        if self.warn_seconds >= 60 * self.minutes:
            raise ValueError(
                f"expected warn_seconds below {60 * self.minutes}, the limit, got {self.warn_seconds}"
            )
        return self


class Settings(Section):
    """All of cluster.yaml but what `slurm` holds."""

    executor: Literal["local", "slurm"]
    workers: PositiveInt | None
    """Stages that run on this machine at once (with slurm: those of `here`). `null`: one for each `gpus`
    devices, where there are none one a core."""
    gpus: PositiveInt
    """CUDA devices that a local worker sees, where there are any."""
    threads: PositiveInt | None
    """Of torch in each worker. `null`: a job's cpus; here, the cores divided by `workers`."""
    here: list[str]
    """Stages, without what follows an @, that run in this very folder: the short ones, and those that read
    paths relative to it or need a network that the nodes lack. All others run in private clones."""
    keep: list[str]
    """Folders of this one that all clones share, for what outlives a stage."""
    retries: NonNegativeInt
    """How often a stage is tried again that failed without saying that its input is bad."""
    slurm: dict[str, Any]
    """Resources a stage, without what follows an @; `default` for the others."""

    @field_validator("keep")
    @classmethod
    def _inside(cls, keep: list[str]) -> list[str]:
        for name in keep:
            if Path(name).is_absolute() or ".." in Path(name).parts or name in ("", "."):
                raise ValueError(f"expected folders inside the repository, got {name!r}")
        return keep


class Cluster(NamedTuple):
    """All of cluster.yaml."""

    settings: Settings
    resources: dict[str, Resources]

    def of(self, kind: str) -> Resources:
        """What a stage asks for."""
        return self.resources.get(kind, self.resources["default"])


def read_settings(kinds: set[str], path: Path = SETTINGS) -> Cluster:
    """Reads the file. kinds: the pipeline's stages, without what follows an @.

    Raises InputError with a line for every mistake.
    """
    values = read_params(path)
    settings = parse(Settings, values, path=path)
    resources = {kind: parse(Resources, values, "slurm", kind, path=path) for kind in settings.slurm}
    if "default" not in resources:
        raise InputError(f"{path}: slurm.default: missing")
    for key, named in {"here": settings.here, "slurm": set(resources) - {"default"}}.items():
        if unknown := sorted(set(named) - kinds):
            raise InputError(
                f"{path}: {key}: expected stages of the pipeline ({', '.join(sorted(kinds))}), "
                f"got {unknown[0]!r}"
            )
    return Cluster(settings, resources)


def devices() -> list[str]:
    """The CUDA devices of this machine, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # seconds, for the pool alone

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
    return [name for name in visible.split(",") if name] if torch.cuda.is_available() else []
