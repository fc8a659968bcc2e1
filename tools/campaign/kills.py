"""Kills: SIGKILL, SIGTERM and SIGINT at random moments of every stage, to DVC, to the stage, or to both."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

from working import working_in

from tools.campaign.ground import Ground
from tools.campaign.trial import Trial

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
AROUND = 2.0
"""Seconds that DVC needs before a stage starts and after it, about."""
END = 120.0
"""Seconds after which what still runs has outlived its kill."""
OF_LOCK = 10
"""Every tenth kill comes while DVC writes its lock file."""

Victim = Callable[[Path, int], list[int]]


def dvc(_: Path, leader: int) -> list[int]:
    return [leader]


def stage(path: Path, leader: int) -> list[int]:
    """DVC where no stage runs at this moment."""
    return [pid for pid in working_in(path) if "stages." in command_of(pid)] or [leader]


def both(path: Path, _: int) -> list[int]:
    """As Ctrl-C in a terminal."""
    return working_in(path)


VICTIMS: tuple[Victim, ...] = (dvc, stage, both)
"""Who is killed, by the study's folder and the number of its `dvc repro`; for workers see workers.py."""


def kills(ground: Ground, count: int, rng: random.Random) -> Iterator[Trial]:
    """`count` kills, signals and victims in random order; each stage has about as much of the time."""

    def cost(name: str) -> float:
        return ground.seconds[name] + 3 * AROUND  # with DVC's two runs, and the comparison

    stages, ways = ground.stages(), [*product(SIGNALS, VICTIMS)]
    rng.shuffle(ways)
    spent = dict.fromkeys(stages, 0.0)
    with ground.spare() as spare:
        for number in range(count):
            name = min(stages, key=lambda name: spent[name] + cost(name))
            spent[name] += cost(name)
            sent, victim = ways[number % len(ways)]
            if number % OF_LOCK == OF_LOCK - 1:
                sent, victim, moment = signal.SIGKILL, dvc, while_locking(ground, name)
            else:
                moment = at_random(ground, name, rng)
            when = moment(sent, victim)
            lost = "" if ended(ground.path) else f"something still runs after {END:g} s"
            finished, begun = trained(ground.path)
            status, said = ground.repair()
            lost = lost or ground.lost({name}, status, said)
            if not lost and "Running stage 'finetune" in said:
                kept = said.count("already trained"), said.count("goes on after epoch")
                if kept[0] < finished or kept[1] < begun:
                    lost = f"{finished} seeds and {begun} checkpoints were there, {kept} were used"
            torn = ", which was cut short" if "dvc.lock was damaged" in said else ""
            yield Trial(f"kills: {sent.name}", f"{victim.__name__} in {name} {when}{torn}", lost=lost)
            if lost:
                ground.restore(spare)


Moment = Callable[[signal.Signals, Victim], str]
"""Runs the stage, kills, and says when that was."""


def at_random(ground: Ground, name: str, rng: random.Random) -> Moment:
    """Anywhere between the start of `dvc repro` and its end; earlier where it ended before."""

    def moment(sent: signal.Signals, victim: Victim) -> str:
        longest = ground.seconds[name] + AROUND
        while True:
            ground.forget(name)
            with ground.repository.start("dvc", "repro", *ground.targets, quiet=True) as process:
                delay = rng.uniform(0.2, longest)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(delay)
                if process.poll() is None:
                    send(sent, victim(ground.path, process.pid))
                    return f"after {delay:.1f} s"
            longest *= 0.7

    return moment


def while_locking(ground: Ground, name: str) -> Moment:
    """As soon as dvc.lock is shorter than it was."""

    def moment(sent: signal.Signals, victim: Victim) -> str:
        while True:
            ground.forget(name)
            lock = ground.path / "dvc.lock"
            whole = len(lock.read_text().replace("true; ", ""))
            with ground.repository.start("dvc", "repro", *ground.targets, quiet=True) as process:
                while process.poll() is None:
                    if lock.stat().st_size < whole - 200:
                        send(sent, victim(ground.path, process.pid))
                        return "while it writes dvc.lock"
                    time.sleep(0.0005)

    return moment


def send(sent: signal.Signals, victims: list[int]) -> None:
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, sent)


def command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def ended(path: Path) -> bool:
    """Waits until nothing works in the folder."""
    deadline = time.monotonic() + END
    while working_in(path):
        if time.monotonic() > deadline:
            send(signal.SIGKILL, working_in(path))
            return False
        time.sleep(0.05)
    return True


def trained(path: Path) -> tuple[int, int]:
    """How many seeds are finished, and how many have a checkpoint."""
    states = [folder for folder in (path / "runs/state").glob("*/*/*/*") if folder.is_dir()]
    finished = [folder for folder in states if (folder / "history.csv").exists()]
    begun = [folder for folder in states if (folder / "checkpoint.pt").exists() and folder not in finished]
    return len(finished), len(begun)
