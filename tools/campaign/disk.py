"""Faults of the disk: full, read-only, forbidden, a file that vanishes, fsync that fails.

The study lies on a small tmpfs, and runs without root's right to pass over modes.
"""

from __future__ import annotations

import getpass
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from working import working_in

from tools.campaign.faults import Fault, Harm, judged
from tools.campaign.ground import Ground
from tools.campaign.kills import command_of
from tools.campaign.net import ARCHIVE
from tools.campaign.trial import Trial

RIGHTS = "-dac_override,-dac_read_search"
SPACE = 300 << 20
"""Bytes of the tmpfs: some copies of the study."""
NO_SPACE, READ_ONLY, DENIED = "No space left on device", "Read-only file system", "Permission denied"
NO_FSYNC = """import errno, os

def fsync(_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

os.fsync = fsync
"""


def disk(ground: Ground, count: int, rng: random.Random) -> Iterator[Trial]:
    """The first `count` of the faults in random order.

    Raises NotImplementedError, with the reason, where this machine cannot do them.
    """
    if getpass.getuser() != "root":
        raise NotImplementedError("a tmpfs can be mounted by root alone")
    place = ground.path.with_name("disk")
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SPACE}", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        raise NotImplementedError(f"no tmpfs can be mounted: {done.stderr.strip()}")
    try:
        small = ground.copy(place / "study")
        small.repository.prefix = ["setpriv", f"--bounding-set={RIGHTS}", f"--inh-caps={RIGHTS}"]
        archive = (ground.path.with_name("mirror") / ARCHIVE).stat().st_size
        chosen = [fault for fault in faults(small, archive) if fault.stage]
        rng.shuffle(chosen)
        yield from judged(chosen[:count], small)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # a stage may not have ended yet
        place.rmdir()


def faults(ground: Ground, archive: int) -> Iterator[Fault]:
    """Every fault that the stages of this study can meet. archive: bytes of what it downloads."""
    birds, source = ground.named("objects"), ground.named("source")
    training, lists, leaks = ground.named("finetune"), ground.named("split"), ground.named("leaks")
    for stage in ground.stages():
        yield Fault("disk: full", "as the stage starts", stage, full(0, is_running), NO_SPACE)
    for stage in (lists, source):
        yield Fault("disk: full", "before DVC starts", stage, full(0), NO_SPACE)
    yield Fault("disk: full", "in the download", birds, full(archive // 2, is_running), NO_SPACE)
    yield Fault("disk: full", "in the extraction", birds, full(archive + archive // 2, is_running), NO_SPACE)
    packing = ground.named("pack")
    yield Fault("disk: full", "with half of the pictures", packing, full(100_000, is_running), NO_SPACE)
    yield Fault("disk: full", "in the download", source, full(1 << 19, is_running), NO_SPACE)
    begun = lambda path: any((path / "runs/state").rglob("checkpoint.pt"))  # noqa: E731
    yield Fault("disk: full", "at a checkpoint", training, full(0, begun), NO_SPACE)
    for stage in (lists, leaks, training):
        yield Fault("disk: full", "as the stage ends", stage, full(0, Ended()), NO_SPACE)
    folders = {
        "data": lists,
        "objects": birds,
        "runs": leaks,
        "sources": source,
        "results": ground.named("aggregate"),
        "downloads": source,
        ".dvc/cache": lists,
        ".": leaks,
    }
    for folder, stage in folders.items():
        yield Fault("disk: read-only", folder, stage, read_only(folder), READ_ONLY)
        if folder != ".":
            yield Fault("disk: permission denied", folder, stage, forbidden(folder), DENIED)
    files = {
        "params.yaml": lists,
        "dvc.lock": lists,
        "data/digits/index.csv": lists,
        "sources/source.safetensors": training,
        "data/digits/val.csv": training,
    }
    for file, stage in files.items():
        yield Fault("disk: permission denied", file, stage, forbidden(file), DENIED, Path(file).name)
    gone = {
        "data/digits/index.csv": lists,
        "data/digits/images/train": leaks,
        "sources/source.safetensors": training,
        "data/digits/train/100.csv": training,
        "runs/finetune/digits/100/gta-0.1/seed1.safetensors": ground.named("evaluate"),
        "runs/evaluate/digits": ground.named("aggregate"),
    }
    for file, stage in gone.items():
        yield Fault("disk: vanishing file", file, stage, vanishing(file), "no such|No such|missing|none")
    for stage in (ground.named("check"), birds, lists, leaks, source, training, ground.named("aggregate")):
        yield Fault("disk: fsync fails", "everywhere", stage, no_fsync, "Input/output error")


def is_running(path: Path) -> bool:
    """Whether a stage of the study runs."""
    return any("stages." in command_of(pid) for pid in working_in(path))


class Ended:
    """Whether a stage was seen running, and has ended."""

    def __init__(self) -> None:
        self.seen = False

    def __call__(self, path: Path) -> bool:
        runs = is_running(path)
        self.seen |= runs
        return self.seen and not runs


@contextmanager
def once(when: Callable[[Path], bool], path: Path, act: Callable[[], object]) -> Iterator[None]:
    """Acts as soon as something is so, if ever."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if when(path):
                act()
                return
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def full(room: int, when: Callable[[Path], bool] = lambda _: True) -> Harm:
    """Fills the tmpfs up to `room` bytes, from a moment on."""

    @contextmanager
    def harm(ground: Ground) -> Iterator[None]:
        ballast = ground.path.with_name("ballast")

        def fill() -> None:
            with ballast.open("wb") as file:
                while (left := _free(ballast.parent) - room) > 0:
                    with suppress(OSError):  # where the stage took some of it meanwhile
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, left)

        try:
            with once(when, ground.path, fill):
                yield
        finally:
            ballast.unlink(missing_ok=True)

    return harm


def _free(folder: Path) -> int:
    """Bytes."""
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize


def read_only(folder: str) -> Harm:
    @contextmanager
    def harm(ground: Ground) -> Iterator[None]:
        place = ground.path / folder
        made = not place.exists()
        place.mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", place, place], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", place], check=True)
            if made:
                place.rmdir()

    return harm


def forbidden(name: str) -> Harm:
    """Takes all rights from a file, and from a folder, with those in it, the right to write."""

    @contextmanager
    def harm(ground: Ground) -> Iterator[None]:
        place = ground.path / name
        if not place.exists():
            place.mkdir()
        places = [place, *(path for path in place.rglob("*") if path.is_dir())]
        modes = {path: path.stat().st_mode for path in places}
        for path in places:
            path.chmod(0o555 if path.is_dir() else 0)
        try:
            yield
        finally:
            for path, mode in modes.items():
                path.chmod(mode)

    return harm


def vanishing(name: str) -> Harm:
    """Removes a file or folder as soon as the stage runs."""

    @contextmanager
    def harm(ground: Ground) -> Iterator[None]:
        place = ground.path / name
        with once(
            is_running, ground.path, lambda: shutil.rmtree(place) if place.is_dir() else place.unlink()
        ):
            yield

    return harm


@contextmanager
def no_fsync(ground: Ground) -> Iterator[None]:
    """Lets os.fsync fail in every process."""
    folder = ground.path.with_name("no_fsync")
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(NO_FSYNC)
    ground.repository.environment["PYTHONPATH"] = str(folder)
    try:
        yield
    finally:
        del ground.repository.environment["PYTHONPATH"]
