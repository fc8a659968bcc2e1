"""Workers on this machine: processes that end with the head."""

from __future__ import annotations

import os
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

import psutil

from tools.cluster.settings import Settings, devices
from tools.cluster.task import Task
from tools.cluster.worker import kill_children, serve

READY = ["tools.cluster.worker", "dvc.repo.index", "dvc.scm", "dvc.utils.strictyaml"]
"""Imported once, by the process of which workers are forks: to import DVC takes longer than to run it."""


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
        self.running: dict[int, tuple[Task, BaseProcess]] = {}
        """By the number of the worker."""

    @property
    def room(self) -> int:
        """How many more may be started now."""
        return len(self.environments) - len(self.running)

    @property
    def tasks(self) -> list[Task]:
        """Those that run."""
        return [task for task, _ in self.running.values()]

    def start(self, tasks: list[Task]) -> None:
        free = [number for number in range(len(self.environments)) if number not in self.running]
        for number, task in zip(free, tasks, strict=False):
            args = (task.folder, self.environments[number])
            process = self.forks.Process(target=serve, args=args, daemon=True)
            with suppress(EOFError, ConnectionError):  # killed, what it is a fork of: it has ended
                process.start()
            self.running[number] = task, process

    def ended(self) -> list[Task]:
        """Tasks whose worker has ended, once each."""
        over = [number for number, (_, process) in self.running.items() if not process.is_alive()]
        return [self.running.pop(number)[0] for number in over]

    def stop(self) -> None:
        """Ends every worker, and what it runs."""
        alive = [process for _, process in self.running.values() if process.is_alive()]
        for process in alive:
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getpgid(process.pid or 0) == process.pid:  # else it has not begun
                    kill_children(process.pid)
                process.kill()
        for process in alive:
            process.join()
        self.running.clear()
