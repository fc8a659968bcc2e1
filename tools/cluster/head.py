"""Starts what can start, takes in what has ended, until nothing is left."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from tools.cluster.clock import Clock, size_of
from tools.cluster.grid import Grid, keep, restore, settle, write
from tools.cluster.local import Local
from tools.cluster.settings import Cluster
from tools.cluster.slurm import Slurm
from tools.cluster.task import FOLDER, Task, kind_of, log_of, snapshot, write_task

log = logging.getLogger(__name__)

LINE = "{desc} {n_fmt}/{total_fmt} {bar} {postfix}"
LOOK_EVERY = 0.05
"""Seconds between two looks at the workers."""
SHOW_EVERY = 1.0
"""Seconds between two estimates of the time that is left."""


class Head:
    """The one process that DVC's lock file and working tree belong to while workers run."""

    def __init__(self, grid: Grid, cluster: Cluster) -> None:
        self.grid, self.cluster = grid, cluster
        self.here = Local(cluster.settings)
        self.away = Slurm(cluster) if cluster.settings.executor == "slurm" else self.here
        self.pools: list[Local | Slurm] = list(dict.fromkeys([self.away, self.here]))
        self.clock = Clock()
        self.waiting = list(grid.steps)
        """In the order of a serial run: not yet looked at, since something above is not settled."""
        self.due: list[Any] = []
        """Stale, and all above settled: to be started."""
        self.attempts: dict[str, int] = {}
        self.failed: dict[str, str] = {}
        """Why, by stage; nothing where it was left out, since a stage above has failed."""
        self.code: Path | None = None
        self.next_show = 0.0

    @property
    def running(self) -> list[Task]:
        return [task for pool in self.pools for task in pool.tasks]

    def run(self) -> None:
        """Ends when every stage is settled or has failed.

        Raises KeyboardInterrupt at Ctrl-C, between two looks, as DVC must not be left in the middle of
        something.
        """
        interrupted = threading.Event()
        signal.signal(signal.SIGINT, lambda _number, _frame: interrupted.set())
        with self.grid.repo.lock:
            self._look()
        stale = len(self.waiting) + len(self.due)
        with tqdm(None, "stages", stale, disable=None, bar_format=LINE) as bar, logging_redirect_tqdm():
            while self.due or self.running:
                self._start()
                self._show(bar, stale)
                if self.grid.changed and time.monotonic() > self.grid.next_write:
                    with self.grid.repo.lock:
                        write(self.grid)
                time.sleep(LOOK_EVERY)
                ended = [task for pool in self.pools for task in pool.ended()]
                if ended:
                    self._start()  # first: no worker waits until others' outputs are taken in
                    self._take_in(ended)
                if interrupted.is_set():
                    raise KeyboardInterrupt
        self.write()

    def write(self) -> None:
        """Brings dvc.lock up to date with all that has ended."""
        with self.grid.repo.lock:
            write(self.grid, last=True)

    def stop(self) -> None:
        """Ends all workers."""
        for pool in self.pools:
            pool.stop()
        shutil.rmtree(FOLDER / "work", ignore_errors=True)

    def _look(self) -> None:
        """Settles what can be, and finds what is due."""
        later = []
        for stage in self.waiting:
            above = [upper.addressing for upper in self.grid.above(stage)]
            if any(name in self.failed for name in above):
                self.failed[stage.addressing] = ""
            elif not all(name in self.grid.settled for name in above):
                later.append(stage)
            elif not settle(self.grid, stage):
                self.due.append(stage)
        self.waiting = later

    def _start(self) -> None:
        """Starts what there is room for, the longest way to go first."""
        if not any(self._pool(stage).room for stage in self.due):
            return
        chain = self.clock.ahead(self.grid, [*self.due, *self.waiting])
        self.due.sort(key=lambda stage: (chain[stage.addressing], size_of(stage)), reverse=True)
        for pool in self.pools:
            mine = [stage for stage in self.due if self._pool(stage) is pool][: pool.room]
            if mine:
                with self.grid.repo.lock:
                    tasks = [self._task(stage) for stage in mine]
                pool.start(tasks)
                self.due = [stage for stage in self.due if stage not in mine]

    def _in_tree(self, stage: Any) -> bool:
        """Whether it runs in this folder, not in a clone."""
        return self.grid.by_hand(stage) or kind_of(stage.addressing) in self.cluster.settings.here

    def _pool(self, stage: Any) -> Local | Slurm:
        return self.here if self._in_tree(stage) else self.away

    def _task(self, stage: Any) -> Task:
        name, settings = stage.addressing, self.cluster.settings
        self.attempts[name] = self.attempts.get(name, 0) + 1
        if self._in_tree(stage):
            stage.remove_outs(ignore_remove=False)
            return write_task(self.grid, stage, None, [], {})
        if self.code is None:
            self.code = snapshot(self.grid)
        environment = {}
        if self.away is not self.here:
            cpus = self.cluster.of(kind_of(stage.addressing)).cpus
            environment["OMP_NUM_THREADS"] = str(settings.threads or cpus)
        return write_task(self.grid, stage, self.code, settings.keep, environment)

    def _take_in(self, ended: list[Task]) -> None:
        with self.grid.repo.lock:
            for task in ended:
                self._take(task)
            self._look()

    def _take(self, task: Task) -> None:
        """Keeps what a worker has made, or lets it be tried again, or gives up the stage."""
        name, result = task.name, task.result()
        if result["status"] == "done":
            if self._in_tree(task.stage):
                keep(self.grid, task.stage)
            elif not restore(self.grid, task.stage):
                self._fail(name, "what it depends on has changed while it ran; start again")
                return
            self.clock.took(name, result["seconds"])
            log.info(f"{name}: done in {_time(result['seconds'])}")
        elif result["status"] == "refused" or self.attempts[name] > self.cluster.settings.retries:
            self._fail(name, result["text"])
        else:
            log.warning(f"{name}: {result['text']}; it is tried again, the log is {log_of(name)}")
            (task.folder / "job").unlink(missing_ok=True)
            self.due.append(task.stage)

    def _fail(self, name: str, text: str) -> None:
        self.failed[name] = text
        log.error(f"{name}: {text}")

    def _show(self, bar: tqdm[Any], stale: int) -> None:
        if time.monotonic() < self.next_show:
            return
        self.next_show = time.monotonic() + SHOW_EVERY
        running, waiting = self.running, [*self.due, *self.waiting]
        left = self.clock.left(self.grid, [*waiting, *(task.stage for task in running)], len(running))
        bar.n = stale - len(running) - len(waiting)
        about = "" if left is None else f", about {_time(left)} left"
        bar.set_postfix_str(f"{len(running)} running, {len(waiting)} waiting{about}")


def _time(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
