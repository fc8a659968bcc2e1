"""Workers on this machine: processes that end with the head."""

from __future__ import annotations

import os
import subprocess
import sys

from tools.cluster.settings import Settings, devices
from tools.cluster.task import Task
from tools.cluster.worker import kill_children


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
        self.running: dict[int, tuple[Task, subprocess.Popen[bytes]]] = {}
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
            command = [sys.executable, "-m", "tools.cluster.worker", str(task.folder), str(os.getpid())]
            environment = {**os.environ, **self.environments[number]}
            process = subprocess.Popen(
                command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL
            )
            self.running[number] = task, process

    def ended(self) -> list[Task]:
        """Tasks whose worker has ended, once each."""
        over = [number for number, (_, process) in self.running.items() if process.poll() is not None]
        return [self.running.pop(number)[0] for number in over]

    def stop(self) -> None:
        """Ends every worker, and what it runs."""
        for _, process in self.running.values():
            kill_children(process.pid)
            process.kill()
        for _, process in self.running.values():
            process.wait()
        self.running.clear()
