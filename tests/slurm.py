"""A real Slurm on this machine: munged, slurmctld and one slurmd, started by hand in a folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from repository import ENVIRONMENT

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
Epilog={folder}/epilog
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
EPILOG = """#!/bin/sh
test ! -e {folder}/slow || test "$SLURM_JOB_ID" != "$(cat {folder}/slow)" || sleep 10
"""
"""What the node runs after a job, which is COMPLETING meanwhile; `slow` names the one that takes its time."""


def missing() -> str:
    """Why there can be no Slurm here; nothing where there can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.getuid() == 0 else "slurmd wants to be started by root"


class Slurm:
    """`environment`: what a user's shell has."""

    def __init__(self, folder: Path, processes: ExitStack) -> None:
        self.folder, self.processes = folder, processes
        self.environment = {
            **ENVIRONMENT,
            "PATH": f"{ENVIRONMENT['PATH']}:/usr/sbin",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        """The daemons, by program."""

    def start(self, *command: str) -> None:
        """Starts a daemon, which ends with the whole."""
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.callback(process.wait)
        self.processes.callback(process.terminate)
        self.running[command[0]] = process

    def kill(self, name: str) -> None:
        """kill -9 of a daemon; jobs live on without the node's, as on a real node."""
        self.running[name].kill()
        self.running[name].wait()

    def revive(self) -> None:
        """Starts the controller and the node's daemon where they have ended, and waits for the node.

        A controller that was killed may have forgotten which jobs it has started: it starts them again, and
        takes the node, which refuses, out of service, until an administrator has looked.
        """
        for name in ("slurmctld", "slurmd"):
            if name not in self.running or self.running[name].poll() is not None:
                self.start(name, "-D")
        deadline = time.monotonic() + 60
        while (state := self.ask("sinfo", "-h", "-o", "%T").strip()) not in ("idle", "mixed", "allocated"):
            assert time.monotonic() < deadline, f"the node is {state!r}: see {self.folder}"
            if state.startswith("drain"):
                self.ask("scontrol", "update", f"NodeName={socket.gethostname()}", "State=RESUME")
            time.sleep(0.2)

    def ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout


@contextmanager
def slurm() -> Iterator[Slurm]:
    """One node, with this machine's cores."""
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: the path of a socket has at most 107 bytes
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        controller, node = first.getsockname()[1], second.getsockname()[1]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname(), folder=folder, controller=controller, node=node, cpus=os.cpu_count()
        )
    )
    (folder / "epilog").write_text(EPILOG.format(folder=folder))
    (folder / "epilog").chmod(0o755)
    (folder / "munge.key").write_bytes(secrets.token_bytes(64))
    (folder / "munge.key").chmod(0o400)
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    try:
        with ExitStack() as processes:
            cluster = Slurm(folder, processes)
            cluster.start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files)
            while not (folder / "munge.socket").exists():
                time.sleep(0.05)
            cluster.revive()
            try:
                yield cluster
            finally:
                cluster.ask("scancel", "--user=root")
                while cluster.ask("squeue", "--noheader"):
                    time.sleep(0.2)
    finally:
        shutil.rmtree(folder)
