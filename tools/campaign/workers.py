"""Kills while `make cluster` runs: of its head, a worker, what that is a fork of, a stage, or Slurm."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

from repository import small_cluster
from ruamel.yaml import YAML
from slurm import missing, slurm
from working import holding, working_in

from tools.campaign.ground import Ground, snapshot
from tools.campaign.kills import END, SIGNALS, Victim, command_of, ended, send
from tools.campaign.trial import Trial

COMMAND = ("python", "-m", "tools.cluster")
AT_ONCE = 3
"""Stale stages of a trial."""
START = 4.0
"""Seconds before a first worker starts, about."""


def pool(ground: Ground, count: int, rng: random.Random) -> Iterator[Trial]:
    """`count` kills while two workers on this machine run what is stale."""
    yield from _kills("pool", prepared(ground, "local"), (head, worker, forks, stage), count, rng)


def on_slurm(ground: Ground, count: int, rng: random.Random) -> Iterator[Trial]:
    """`count` kills while a real Slurm of one node does.

    Raises NotImplementedError, with the reason, where there is none.
    """
    if reason := missing():
        raise NotImplementedError(reason)
    with slurm() as cluster:
        made = prepared(ground, "slurm")
        made.repository.environment |= cluster.environment

        def controller(_: Path, __: int) -> list[int]:
            return [cluster.running["slurmctld"].pid]

        def node(_: Path, __: int) -> list[int]:
            return [cluster.running["slurmd"].pid]

        victims = (head, worker, stage, controller, node)
        yield from _kills("Slurm", made, victims, count, rng, cluster.revive)


def head(_: Path, leader: int) -> list[int]:
    return [leader]


def worker(path: Path, _: int) -> list[int]:
    return holding(path / "runs/cluster/tasks")


def forks(path: Path, _: int) -> list[int]:
    """What workers on this machine are forks of."""
    workers = worker(path, 0)
    return [pid for pid in working_in(path) if "forkserver" in command_of(pid) and pid not in workers]


def stage(path: Path, _: int) -> list[int]:
    return [pid for pid in working_in(path) if "stages." in command_of(pid)]


def prepared(ground: Ground, executor: str) -> Ground:
    """A copy of the study, with workers in its settings."""
    made = ground.copy(ground.path.with_name(executor))
    with (made.path / "cluster.yaml").open("w") as stream:
        YAML().dump(small_cluster(executor=executor, here=["code", "check"]), stream)
    return replace(made, files=snapshot(made.path))


def _kills(
    place: str,
    ground: Ground,
    victims: tuple[Victim, ...],
    count: int,
    rng: random.Random,
    revive: Callable[[], None] = lambda: None,
) -> Iterator[Trial]:
    """Signals and victims in random order. Where the head lives it has to end well, and nothing may be left
    for `make repro`; where it was killed on Slurm, another head finds its jobs again first."""
    ways = [*product(SIGNALS, victims)]
    rng.shuffle(ways)
    training = ground.named("finetune")
    with ground.spare() as spare:
        for number in range(count):
            sent, victim = ways[number % len(ways)]
            names = {training, *rng.sample(ground.stages(), AT_ONCE - 1)}
            delay, status = _killed(ground, names, sent, victim, rng, revive)
            lost = "" if status is not None else f"something still runs after {END:g} s"
            if victim is head and place == "Slurm":
                status, _said = ground.repository.attempt(*COMMAND)
            if status and (victim is not head or place == "Slurm"):
                lost = lost or f"`make cluster` exits with {status}"
            again, said = ground.repair()
            lost = lost or ground.lost(names if victim is head and place != "Slurm" else set(), again, said)
            case = f"{victim.__name__} after {delay:.1f} s of {', '.join(sorted(names))}"
            yield Trial(f"kills: {place}, {victim.__name__}", f"{sent.name} to {case}", lost=lost)
            if lost:
                ground.restore(spare)


def _killed(
    ground: Ground,
    names: set[str],
    sent: signal.Signals,
    victim: Victim,
    rng: random.Random,
    revive: Callable[[], None],
) -> tuple[float, int | None]:
    """When the kill came, in seconds, and the head's exit status, None where something outlives it.

    It comes as soon as there is a victim after a random moment; the whole is begun anew where none was.
    """
    longest = START + sum(ground.seconds[name] for name in names)
    while True:
        revive()
        for name in names:
            ground.forget(name)
        began, delay = time.monotonic(), rng.uniform(0.5, longest)
        with ground.repository.start(*COMMAND, quiet=True) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            found: list[int] = []
            while process.poll() is None and not found:
                found = victim(ground.path, process.pid)
            if found:
                send(sent, found)
                delay = time.monotonic() - began
                time.sleep(rng.uniform(0, 2))
            until = time.monotonic() + END
            while process.poll() is None:
                revive()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                if time.monotonic() > until:
                    process.kill()
                    return delay, None
        if found:
            local = "SLURM_CONF" not in ground.repository.environment  # there, jobs may go on
            return delay, process.returncode if not local or ended(ground.path) else None
        longest *= 0.7
