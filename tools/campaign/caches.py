"""Faults of DVC's cache and locks: a damaged or missing object, a lock file that is gone or broken."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from repository import Repository
from servers import SERVERS, Remote

from tools.campaign.ground import Ground
from tools.campaign.trial import Trial

CHECK = ("python", "-m", "tools.check_cache")
PUSH = ("dvc", "push", "--run-cache")

Attempt = Callable[[Path], Trial]
"""One trial, in an empty folder."""


def caches(ground: Ground, rng: random.Random) -> list[Attempt]:
    """Every fault of this module."""
    return [
        *(partial(damaged_cache, ground, how, kept, rng) for how in HOW for kept in (True, False)),
        *(partial(lost_lock, ground, name) for name in LOCKS),
    ]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


HOW: dict[str, Callable[[Path], None]] = {
    "a flipped bit": flip,
    "a truncated object": lambda path: os.truncate(path, path.stat().st_size - 1),
    "a missing object": Path.unlink,
}


def harm(store: Path, how: str, rng: random.Random) -> Path:
    """Harms one of a store's objects, no listing of a folder; the mode, by which DVC takes an object for
    whole, stays."""
    path = rng.choice([path for path in sorted(store.rglob("files/md5/??/*")) if path.suffix != ".dir"])
    mode = path.stat().st_mode
    path.chmod(0o644)
    HOW[how](path)
    if path.exists():
        path.chmod(mode)
    return path


def join(repository: Repository, remote: Remote) -> None:
    """What `make remote` does, and the credentials."""
    repository.environment |= remote.environment
    repository.run("dvc", "remote", "add", "--quiet", "--local", "--force", "--default", "store", remote.url)
    for key, value in {"verify": "true", **remote.options}.items():
        repository.run("dvc", "remote", "modify", "--local", "store", key, value)


def checked(repository: Repository, *patterns: str) -> str:
    """What is wrong with what the cache check says: one bad object by name, or, without patterns, none."""
    status, said = repository.attempt(*CHECK)
    if status != bool(patterns):
        return f"the cache check exits with {status}: {said[-300:]}"
    missing = [pattern for pattern in patterns or ("; 0 were bad",) if pattern not in said]
    return f"the cache check does not say {missing[0]!r}: {said[-300:]}" if missing else ""


def oid_of(path: Path) -> str:
    return path.parent.name + path.name


def damaged_cache(ground: Ground, how: str, kept: bool, rng: random.Random, place: Path) -> Trial:
    """kept: the working tree has the file, and no remote has; else the other way round."""
    with SERVERS["folder"](place) as remote:
        first = ground.repository.copy(place / "first")
        if not kept:
            join(first, remote)
            first.run(*PUSH)
        path = harm(first.path / ".dvc/cache", how, rng)
        if not kept:
            for folder in ("data", "objects", "sources"):
                shutil.rmtree(first.path / folder, ignore_errors=True)
        origin = "copied from the working tree" if kept else "copied from remote store"
        obscure = checked(first, f"cache: {oid_of(path)} is ", origin)
        first.attempt("dvc", "checkout")
        lost = "; ".join(replace(ground, repository=first).differences()[:3])
        return Trial(
            f"cache: {how}", "in the working tree alone" if kept else "in a remote", lost, "", obscure
        )


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def marked(path: Path) -> None:
    """As git leaves it after a merge that failed."""
    lines = path.read_text().splitlines(keepends=True)
    half = len(lines) // 2
    path.write_text("".join([*lines[:half], "<<<<<<< HEAD\n", *lines[half:], "=======\n>>>>>>> other\n"]))


def emptied(path: Path) -> None:
    """Every entry of the run cache, as a kill between its folder and its file leaves it."""
    for file in path.glob("*/*/*"):
        file.unlink()


LOCKS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "dvc.lock is gone": ("dvc.lock", Path.unlink),
    "dvc.lock is empty": ("dvc.lock", lambda path: os.truncate(path, 0)),
    "dvc.lock is cut short": ("dvc.lock", cut),
    "dvc.lock has a merge's marks": ("dvc.lock", marked),
    "DVC's own locks are gone": (".dvc/tmp", shutil.rmtree),
    "DVC's list of users is cut short": (".dvc/tmp/rwlock", lambda path: path.write_text('{"read": {')),
    "the run cache is gone": (".dvc/cache/runs", shutil.rmtree),
}


def lost_lock(ground: Ground, name: str, place: Path) -> Trial:
    found = replace(ground, repository=ground.repository.copy(place / "first"))
    what, act = LOCKS[name]
    act(found.path / what)
    status, said = found.repair()
    lost = found.lost(set(), status, said)
    if name == "the run cache is gone":  # only what it would have saved is gone, not the study
        gone = {f"{file} is missing" for file in ground.files if file.startswith(".dvc/cache/runs/")}
        lost = "; ".join(sorted(set(found.differences()) - gone)[:3]) if not status else lost
    return Trial("cache: lost lock", name, lost)
