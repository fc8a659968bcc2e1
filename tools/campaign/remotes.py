"""Faults of remotes: a folder, SSH, S3, each with a real server."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import asyncssh
from repository import Repository
from servers import SERVERS, Remote

from tools.campaign.caches import HOW, PUSH, Attempt, caches, checked, harm, join, oid_of
from tools.campaign.ground import FORGOTTEN, Ground, snapshot
from tools.campaign.trial import Trial, unclear

SHARED = ("data/", "objects/", "sources/", "runs/", "dvc.lock")
"""What a colleague has after `dvc pull`."""
LONGEST = 180.0
"""Seconds after which a push hangs."""


def remotes(ground: Ground, count: int, rng: random.Random) -> Iterator[Trial]:
    """The first `count` of these faults and of the cache's, in random order."""
    todo: list[Attempt] = []
    for kind in SERVERS:
        todo += [partial(damaged_remote, ground, kind, how, rng) for how in HOW]
        todo += [partial(two_pushing, ground, kind), partial(pusher_killed, ground, kind, rng)]
        if kind != "folder":
            todo += [partial(refused, ground, kind), partial(server_killed, ground, kind)]
    todo += caches(ground, rng)
    rng.shuffle(todo)
    for number, attempt in enumerate(todo[:count]):
        place = ground.path.with_name(f"remotes{number}")
        place.mkdir()
        yield attempt(place)
        shutil.rmtree(place)


def member(ground: Ground, path: Path, remote: Remote) -> Repository:
    """Somebody who has the whole study."""
    found = ground.repository.copy(path)
    join(found, remote)
    return found


def newcomer(ground: Ground, path: Path, remote: Remote) -> Repository:
    """Somebody with a fresh clone."""
    ground.repository.run("git", "clone", "-q", ".", str(path))
    found = Repository.at(path)
    join(found, remote)
    return found


def pull(ground: Ground) -> tuple[str, ...]:
    return "dvc", "pull", *(("--with-deps", *ground.targets) if ground.targets else ())


def lacking(ground: Ground, clone: Repository) -> str:
    """Pulls, and says what the clone then lacks, or computes."""
    for command in (pull(ground), ("dvc", "repro", *ground.targets)):
        status, said = clone.attempt(*command)
        if status or "Running stage" in said:
            return f"`{' '.join(command)}` exits with {status}: {' | '.join(said.splitlines()[-4:])}"
    mine, theirs = snapshot(clone.path), ground.files
    wrong = [
        name
        for name in mine.keys() | theirs.keys()
        if name.startswith(SHARED) and not name.startswith(FORGOTTEN) and mine.get(name) != theirs.get(name)
    ]
    return f"not as they were: {', '.join(sorted(wrong)[:3])}" if wrong else ""


def damaged_remote(ground: Ground, kind: str, how: str, rng: random.Random, place: Path) -> Trial:
    with SERVERS[kind](place) as remote:
        first = member(ground, place / "first", remote)
        first.run(*PUSH)
        path = harm(remote.folder, how, rng)
        clone = newcomer(ground, place / "clone", remote)
        status, said = clone.attempt(*pull(ground))
        silent = "" if status else "`dvc pull` took it"
        obscure = unclear(said, "failed to (pull|fetch)|Checkout failed|missing") if status else ""
        if how == "a missing object" and oid_of(path) in (first.path / "dvc.lock").read_text():
            first.run(*PUSH)  # not every output has to be pushed: only out of a folder it is a fault
        else:
            obscure = obscure or checked(first, f"remote store: {oid_of(path)} is ", "copied from cache")
        return Trial(f"remotes: {how}", kind, lacking(ground, clone), silent, obscure)


def two_pushing(ground: Ground, kind: str, place: Path) -> Trial:
    with SERVERS[kind](place) as remote:
        both = [member(ground, place / name, remote) for name in ("first", "second")]
        running = [one.start(*PUSH) for one in both]
        ends = [(process.communicate()[0], process.returncode) for process in running]
        failed = [said.strip().splitlines()[-1] for said, status in ends if status]
        lost = checked(both[0]) or lacking(ground, newcomer(ground, place / "clone", remote))
        return Trial("remotes: two push at once", kind, lost, unclear="; ".join(failed))


def pusher_killed(ground: Ground, kind: str, rng: random.Random, place: Path) -> Trial:
    with SERVERS[kind](place) as remote:
        first = member(ground, place / "first", remote)
        with first.start(*PUSH) as process:
            arrived(remote, process)
            time.sleep(rng.uniform(0, 0.3))
            os.killpg(process.pid, signal.SIGKILL)
        first.run(*PUSH)
        lost = checked(first) or lacking(ground, newcomer(ground, place / "clone", remote))
        return Trial("remotes: pusher killed", kind, lost)


def arrived(remote: Remote, process: subprocess.Popen[str]) -> None:
    """Waits for the first object."""
    while process.poll() is None and not any(remote.folder.rglob("files/md5/*/*")):
        time.sleep(0.002)


def refused(ground: Ground, kind: str, place: Path) -> Trial:
    with SERVERS[kind](place) as remote:
        first = member(ground, place / "first", remote)
        other = place / "other"
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(other)
        other.chmod(0o600)
        wrong = replace(remote, options={"keyfile": str(other)} if kind == "ssh" else {})
        wrong.environment = remote.environment | ({"AWS_SECRET_ACCESS_KEY": "x" * 32} if kind == "s3" else {})
        join(first, wrong)
        status, said = first.attempt(*PUSH)
        silent = "" if status else "`dvc push` took it for well"
        obscure = unclear(said, "(?i)denied|forbidden|403|signature|credential|key") if status else ""
        join(first, remote)
        first.run(*PUSH)
        lost = checked(first) or lacking(ground, newcomer(ground, place / "clone", remote))
        return Trial("remotes: credentials refused", kind, lost, silent, obscure)


def server_killed(ground: Ground, kind: str, place: Path) -> Trial:
    silent = obscure = ""
    with SERVERS[kind](place) as remote:
        first = member(ground, place / "first", remote)
        with first.start(*PUSH) as process:
            arrived(remote, process)
            kill_servers()
            try:
                said, _ = process.communicate(timeout=LONGEST)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                said, _ = process.communicate()
                obscure = f"it hangs after {LONGEST:g} s"
        if process.returncode == 0:
            silent = "the push took it for well"
        obscure = obscure or unclear(said, "(?i)failed|connect|lost|closed|reset")
    with SERVERS[kind](place) as remote:
        join(first, remote)
        first.run(*PUSH)
        lost = checked(first) or lacking(ground, newcomer(ground, place / "clone", remote))
        return Trial("remotes: server killed in mid-push", kind, lost, silent, obscure)


def kill_servers() -> None:
    """The servers that this process has started, with theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            head, _, rest = stat.read_text().rpartition(")")
            parents[int(stat.parent.name)] = (int(rest.split()[1]), head.partition("(")[2])
    ours = [
        pid for pid, (parent, name) in parents.items() if parent == os.getpid() and name in ("sshd", "rclone")
    ]
    for pid in ours:
        ours += [child for child, (parent, _) in parents.items() if parent == pid]
    for pid in ours:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
