"""Workers on Slurm, through submitit: job arrays, which outlive the head and are found again by the next."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
from submitit.helpers import DelayedSubmission

from gta.errors import InputError
from tools.cluster.settings import Cluster, Resources
from tools.cluster.task import FOLDER, Task
from tools.cluster.worker import ENDING, kill_children, warn, work

log = logging.getLogger(__name__)

ASK_EVERY = 5.0
"""Seconds between two calls of squeue, which one server answers for everybody."""
LOOK_EVERY = 1.0
"""Seconds between two looks for results, each a question to the file system."""
LOST_AFTER = 30.0
"""Seconds for which squeue has to leave out a job without a result before it is taken for lost: for so long
NFS, by default, goes on believing that there is no such file."""
REQUEUES = 1_000
"""Of a job at its time limit, each of which goes on from a checkpoint: submitit wants a bound."""


class Job:
    """What submitit runs on a node, and what it calls on Slurm's warning before it requeues the job."""

    def __init__(self, folder: Path, patience: float) -> None:
        self.folder, self.patience = folder, patience

    def __call__(self) -> None:
        signal.signal(signal.SIGTERM, _end)
        work(self.folder)

    def checkpoint(self) -> DelayedSubmission:
        warn(self.patience)
        return DelayedSubmission(self)


def _end(_number: int, _frame: FrameType | None) -> None:
    """scancel, or a pre-emption without warning: ends at once, so that Slurm need not wait."""
    ENDING.set()
    kill_children()
    sys.exit(128 + signal.SIGTERM)


class Slurm:
    """All tasks are submitted at once, as an array for each kind of resources; Slurm queues them."""

    room = 1_000
    """How many tasks may be in one array: Slurm's usual MaxArraySize."""

    def __init__(self, cluster: Cluster) -> None:
        for program in ("sbatch", "srun", "squeue", "scancel"):
            if shutil.which(program) is None:
                raise InputError(
                    f"cluster.yaml: executor: 'slurm' needs {program}, which is not found on this machine"
                )
        self.cluster = cluster
        self.running: dict[str, Task] = {}
        """By job."""
        self.gone: dict[str, float] = {}
        """When squeue first left out which of them."""
        self.looked = 0.0
        self.asked, self.jobs = time.monotonic(), _squeue()
        """What squeue said last, and when."""
        self.held: set[str] = set()
        """Those that do not start before somebody says so, and of which that was told."""

    @property
    def tasks(self) -> list[Task]:
        """Those that are queued or run."""
        return list(self.running.values())

    def start(self, tasks: list[Task]) -> None:
        """Submits the tasks; one whose job of an earlier head is still there keeps it."""
        self._ask()
        groups: dict[str, list[Task]] = {}
        for task in tasks:
            for folder in task.folder.parent.iterdir():
                job = _recorded(folder)
                if job in self.jobs and folder == task.folder:
                    self.running[job] = task
                    log.info(f"{task.name}: job {job} of an earlier call goes on")
                elif job in self.jobs:
                    _cancel([job])
            if task not in self.running.values():
                groups.setdefault(self.cluster.of(task.kind).model_dump_json(), []).append(task)
        for group in groups.values():
            self._submit(group, self.cluster.of(group[0].kind))

    def _submit(self, tasks: list[Task], resources: Resources) -> None:
        executor = submitit.SlurmExecutor(FOLDER.resolve() / "slurm", max_num_timeout=REQUEUES)
        executor.update_parameters(**_parameters(tasks[0].kind, resources))
        patience = max(1.0, resources.warn_seconds - 20.0)  # the rest is for requeueing
        try:
            with executor.batch():
                jobs = [executor.submit(Job(task.folder, patience)) for task in tasks]
        except submitit.core.utils.FailedJobError as error:
            raise InputError(f"cluster.yaml: slurm.{tasks[0].kind}: {' '.join(str(error).split())}") from None
        for job, task in zip(jobs, tasks, strict=True):
            (task.folder / "job").write_text(job.job_id)
            self.running[job.job_id] = task
            self.jobs[job.job_id] = "None"

    def ended(self) -> list[Task]:
        """Tasks that have a result, and those whose job is no more, once each."""
        if time.monotonic() - self.looked < LOOK_EVERY:
            return []
        self.looked = time.monotonic()
        if self.looked - self.asked > ASK_EVERY:
            self._ask()
        lost = {job for job, since in self.gone.items() if self.looked - since > LOST_AFTER}
        over = [
            job for job, task in self.running.items() if (task.folder / "result.json").exists() or job in lost
        ]
        return [self.running.pop(job) for job in over]

    def _ask(self) -> None:
        self.asked = time.monotonic()
        try:
            self.jobs = _squeue()
        except InputError as error:
            log.warning(f"{error}")
            return
        self.gone = {job: self.gone.get(job, self.asked) for job in self.running if job not in self.jobs}
        held = {job for job in self.running if "held" in self.jobs.get(job, "").lower()}
        for job in held - self.held:
            log.warning(
                f"{self.running[job].name}: Slurm holds job {job} ({self.jobs[job]}) until it is told: "
                f"scontrol release {job}"
            )
        self.held = held

    def stop(self) -> None:
        """Cancels every job of this folder's tasks, and forgets it: Slurm lists it until it has ended."""
        self._ask()
        records = [*(FOLDER / "tasks").glob("*/*/job")]
        found = {*self.running, *(record.read_text() for record in records)}
        _cancel(sorted(found & self.jobs.keys()))
        for record in records:
            record.unlink()


def _squeue() -> dict[str, str]:
    """This user's jobs that have not ended, with the reason why they wait.

    One that is being requeued is COMPLETING for as long as the node cleans up after it, then PENDING.
    Raises InputError where Slurm does not answer.
    """
    command = ["squeue", "--array", "--noheader", "--user", str(os.getuid()), "--format", "%i %r"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"Slurm does not answer: {' '.join(done.stderr.split())}")
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def _recorded(folder: Path) -> str:
    """The task's job; nothing where it has none."""
    try:
        return (folder / "job").read_text()
    except FileNotFoundError:
        return ""


def _cancel(jobs: list[str]) -> None:
    if jobs:
        subprocess.run(["scancel", *jobs], check=False)


def _parameters(kind: str, resources: Resources) -> dict[str, Any]:
    """Resources in submitit's words."""
    return {
        "job_name": f"gta-{kind}",
        "partition": resources.partition,
        "time": resources.minutes,
        "signal_delay_s": resources.warn_seconds,
        "mem": f"{round(resources.memory_gb * 1024)}M",
        "cpus_per_task": resources.cpus,
        "gpus_per_node": resources.gpus or None,
        "array_parallelism": Slurm.room,
        "additional_parameters": {"requeue": True, **resources.flags},
        "srun_args": [f"--cpus-per-task={resources.cpus}"],
    }
