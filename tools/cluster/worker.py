"""What runs one stage: in a private clone, or in the repository itself.

A clone is a new folder with the snapshot of the code, a pipeline of this one stage, its inputs as links into
the shared cache, and that cache. DVC itself runs the stage there, and leaves its outputs in the cache and its
entry in the run cache, where the head finds them. `result.json` comes back: status, message, seconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import psutil
from configobj import ConfigObj
from dvc.exceptions import DvcException
from dvc.repo import Repo

from gta.atomic import atomic_file
from gta.warning import SIGNAL

ENDING = threading.Event()
"""Set in a worker that was told to end: how its stage ends after that is no result."""


def serve(folder: Path, environment: dict[str, str]) -> None:
    """Works as a process of the head, with which it ends. environment: what differs from the head's."""
    os.setsid()
    end_with_head()
    os.environ |= environment
    work(folder)


def work(folder: Path) -> None:
    """Runs the task, unless another worker has: two never run at once."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "result.json").exists():
            return
        task = json.loads((folder / "task.json").read_text())
        os.environ |= task["environment"]
        log = Path(task["log"])
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        said, started = log.stat().st_size, time.monotonic()
        try:
            error = _in_clone(task) if "code" in task else _here(task)
        except Exception as unforeseen:
            traceback.print_exc()
            error = repr(unforeseen)
        if ENDING.is_set():  # and DVC, torn out of what it did, has raised an error of its own
            return
        status, text = _verdict(error, log, said)
        with atomic_file(folder / "result.json") as partial:
            partial.write_text(
                json.dumps({"status": status, "text": text, "seconds": time.monotonic() - started})
            )


def _here(task: dict[str, Any]) -> str | None:
    """Runs the stage's commands as DVC does, in the repository. Returns what went wrong."""
    shell = os.environ.get("SHELL") or "/bin/sh"
    environment = {**os.environ, "DVC_ROOT": task["root"], "DVC_STAGE": task["name"]}
    for command in [task["cmd"]] if isinstance(task["cmd"], str) else task["cmd"]:
        status = subprocess.run([shell, "-c", command], cwd=task["wdir"], env=environment).returncode
        if status:
            return f"exit status {status}"
    return None


def _in_clone(task: dict[str, Any]) -> str | None:
    """Lets DVC run the stage in a clone. Returns what went wrong."""
    try:
        with _clone(task) as clone, chdir(clone), Repo() as repo:
            if "inputs" in task["lock"]["stages"]:
                repo.checkout(["inputs"])
            repo.reproduce("stage", single_item=True)
    except DvcException as error:
        return " ".join(str(error.__cause__ or error).split())
    return None


@contextmanager
def _clone(task: dict[str, Any]) -> Iterator[Path]:
    """A private folder in which the stage is the whole pipeline."""
    root = Path(task["root"])
    (root / "runs/cluster/work").mkdir(parents=True, exist_ok=True)
    clone = Path(tempfile.mkdtemp(prefix=f"{task['name']}.", dir=root / "runs/cluster/work"))
    try:
        shutil.copytree(task["code"], clone, copy_function=_link_or_copy, dirs_exist_ok=True)
        for name in task["keep"]:
            (root / name).mkdir(parents=True, exist_ok=True)
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).symlink_to(root / name)
        (clone / ".dvc").mkdir(exist_ok=True)
        config = task["config"]
        config["core"]["site_cache_dir"] = str(clone / ".dvc/site")
        written = ConfigObj(
            config, interpolation=False
        )  # as DVC writes it: a path may hold commas and quotes
        written.filename = str(clone / ".dvc/config.local")
        written.write()
        (clone / "dvc.yaml").write_text(json.dumps(task["pipeline"]))
        (clone / "dvc.lock").write_text(json.dumps(task["lock"]))
        yield clone
    finally:
        shutil.rmtree(clone, ignore_errors=True)


def _link_or_copy(file: str, to: str) -> None:
    """Python's files, to which no stage writes, as links: a file takes as long as a dozen links."""
    if file.endswith((".py", ".pyc")):
        with suppress(OSError):  # a file system without links
            os.link(file, to)
            return
    shutil.copy2(file, to)


def _verdict(error: str | None, log: Path, said: int) -> tuple[str, str]:
    """Status and message of a stage that has ended. said: length of the log before it began."""
    if error is None:
        return "done", ""
    with log.open("rb") as stream:
        stream.seek(said)
        lines = stream.read().decode(errors="replace").replace("\r", "\n").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("error: "):
            return "refused", "\n".join(lines[number:]).removeprefix("error: ").strip()
    said_last = [line.strip() for line in lines if line.strip()][-1:]
    return "failed", ": ".join([error, *said_last])


def end_with_head() -> None:
    """Ends this process and all that it runs as soon as the one that has started it ends. Returns at once."""
    head = parent_process()
    assert head is not None

    def wait() -> None:
        head.join()
        kill_children()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def kill_children(process: int | None = None) -> None:
    """Kills all that a process runs; by default this one."""
    for child in _run_by(process):
        _signal(child, signal.SIGKILL)


def warn(seconds: float) -> None:
    """Tells the stage that its time is nearly up. Kills what is left after some seconds."""
    ENDING.set()
    stage = _run_by(None)
    for process in stage:
        _signal(process, SIGNAL)
    _, left = psutil.wait_procs(stage, timeout=seconds)
    for process in left:
        _signal(process, signal.SIGKILL)


def _run_by(pid: int | None) -> list[psutil.Process]:
    """All that a process, by default this one, runs, those too that have lost their own parent.

    Slurm sends its signals to every process of a job, and the shell between DVC and a stage may die of one
    that the stage survives. They are of the same process group.
    """
    head = psutil.Process(pid)
    found = set(head.children(recursive=True))
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == os.getpgid(head.pid):
                found |= {process, *process.children(recursive=True)}
    return [*(found - {head, *head.parents()})]


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)
