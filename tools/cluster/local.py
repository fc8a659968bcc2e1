"""Workers on this machine: processes that end with the head."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import psutil

from tools.cluster.settings import Settings, devices
from tools.cluster.task import Task
from tools.cluster.worker import kill_children, serve

READY = ["tools.cluster.worker", "dvc.repo.index", "dvc.scm", "dvc.utils.strictyaml"]
"""Imported once, by the process of which workers are forks: to import DVC takes longer than to run it."""


class _Worker(NamedTuple):
    """A fork of the fork server, which may be killed while it works."""

    task: Task
    fork: BaseProcess
    """Kept, as a worker ends when it is freed. What it tells is of no use: without the fork server, which
    would report a worker's end, it takes each one for ended."""
    process: psutil.Process | None
    """None where it has not begun."""

    @property
    def works(self) -> bool:
        if self.process is None or not self.process.is_running():
            return False
        with suppress(psutil.NoSuchProcess):
            return bool(self.process.status() != psutil.STATUS_ZOMBIE)
        return False


class Local:
    """At most `workers` stages at once; each worker has its own CUDA devices, or its share of the cores."""

    def __init__(self, settings: Settings) -> None:
        cores = len(os.sched_getaffinity(0))
        cuda = devices() if settings.executor == "local" else []
        shares = [cuda[start : start + settings.gpus] for start in range(0, len(cuda), settings.gpus)]
        count = settings.workers or len(shares) or cores
        threads = str(settings.threads or max(1, cores // count))
        self.environments = [{"OMP_NUM_THREADS": threads} for _ in range(count)]
        for number, environment in enumerate(self.environments if shares else []):
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(shares[number % len(shares)])
        self.forks = get_context("forkserver")
        self.forks.set_forkserver_preload(READY)
        self.running: dict[int, _Worker] = {}
        """By the number of the worker."""

    @property
    def room(self) -> int:
        """How many more may be started now."""
        return len(self.environments) - len(self.running)

    @property
    def tasks(self) -> list[Task]:
        """Those that run."""
        return [worker.task for worker in self.running.values()]

    def start(self, tasks: list[Task]) -> None:
        free = [number for number in range(len(self.environments)) if number not in self.running]
        for number, task in zip(free, tasks, strict=False):
            args = (task.folder, self.environments[number])
            fork = self.forks.Process(target=serve, args=args, daemon=True)
            process = None
            with suppress(EOFError, ConnectionError, psutil.NoSuchProcess):  # the fork server was killed
                fork.start()
                process = psutil.Process(fork.pid)
            self.running[number] = _Worker(task, fork, process)

    def ended(self) -> list[Task]:
        """Tasks whose worker has ended, once each."""
        over = [number for number, worker in self.running.items() if not worker.works]
        return [self.running.pop(number).task for number in over]

    def stop(self) -> None:
        """Ends every worker, and what it runs."""
        for worker in self.running.values():
            if worker.process is not None and worker.works:
                with suppress(ProcessLookupError, psutil.NoSuchProcess):
                    if os.getpgid(worker.process.pid) == worker.process.pid:  # else it has not begun
                        kill_children(worker.process.pid)
                    worker.process.kill()
        while any(worker.works for worker in self.running.values()):
            time.sleep(0.01)
        self.running.clear()
