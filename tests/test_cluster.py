"""The grid on many workers: what a serial run gives, whatever dies meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
from repository import ENVIRONMENT, ROOT, Repository, small_cluster, small_params
from ruamel.yaml import YAML
from slurm import Slurm, missing, slurm
from working import holding, working_in

from gta.errors import InputError
from gta.params.section import read_params
from tools.cluster.settings import read_settings

CELLS = ["baseline", "gta-0.1"]
UNSTEADY = {"cost.csv", "report.html"}
"""Of results/: what they tell is of the very run."""
COMMAND = ["python", "-m", "tools.cluster"]


def set_up(repository: Repository, **changes: Any) -> None:
    with (repository.path / "cluster.yaml").open("w") as stream:
        YAML().dump(small_cluster(retries=1, **changes), stream)


def done(output: str) -> list[str]:
    """The stages that workers ran, in the order in which they ended."""
    return re.findall(r"^\S+ (\S+): done in", output, re.MULTILINE)


def wait_for(what: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


def started(repository: Repository, command: list[str] = COMMAND) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=repository.path,
        env=repository.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def warn(cluster: Slurm, job: str) -> None:
    """As of its time limit, and waits until the job is requeued."""
    cluster.ask("scancel", "--signal=USR2", job)
    waiting = ["squeue", "--array", "--noheader", "--format=%i", "--states=PENDING"]
    wait_for(lambda: job in cluster.ask(*waiting).split())


def start_soon(cluster: Slurm, job: str) -> None:
    """A requeued job, with which Slurm waits for two minutes: in the second of its end the node would refuse
    it ("credential revoked")."""
    cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now+5")


def forks_of(head: int) -> psutil.Process | None:
    """What the head's workers are forks of, as soon as it runs."""
    for child in psutil.Process(head).children():
        with suppress(psutil.NoSuchProcess):
            if "forkserver" in str(child.cmdline()):
                return child
    return None


def read_to(line: str, stream: IO[str]) -> None:
    """Up to the line, while what comes after it waits."""
    said = []
    while line not in (found := stream.readline()):
        assert found, "".join(said)
        said.append(found)


# --- The real pipeline: training is killed, and the bits are those of a serial run.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The small grid, of which all is done that comes before training."""
    values = small_params()
    values["grid"] |= {"fractions": [100], "methods": CELLS, "seeds": [0]}
    values["finetune"]["epochs"] = 60  # some seconds, so that a kill comes in between
    made = Repository(tmp_path_factory.mktemp("prepared"), values)
    made.repro("pack@digits", "split@digits", "leaks@digits", "source")
    return made


@pytest.fixture(scope="module")
def serial(prepared: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = prepared.copy(tmp_path_factory.mktemp("serial") / "repository")
    made.repro()
    return made


def checkpoint(repository: Repository, cell: str) -> list[Path]:
    return [*(repository.path / "runs/state/digits/100" / cell).rglob("checkpoint.pt")]


def assert_same(made: Repository, serial: Repository) -> None:
    for name in ["dvc.lock", *(f"results/{name}" for name in serial.files("results"))]:
        if Path(name).name not in UNSTEADY:
            assert (made.path / name).read_bytes() == (serial.path / name).read_bytes(), name
    assert made.repro() == []
    assert not list((made.path / "runs/cluster").glob("work/*"))


def test_a_pool_of_which_a_worker_is_killed_gives_what_a_serial_run_gives(
    prepared: Repository, serial: Repository, tmp_path: Path
) -> None:
    pool = prepared.copy(tmp_path / "pool")
    set_up(pool)
    with started(pool) as head:
        wait_for(lambda: checkpoint(pool, "gta-0.1"))
        (pid,) = holding(pool.path / "runs/cluster/tasks/finetune@digits-100-gta-0.1")
        worker = psutil.Process(pid)
        stage = worker.children()
        worker.kill()
        assert psutil.wait_procs(stage, timeout=30)[1] == [], "the stage outlived its worker"
        output, _ = head.communicate(timeout=600)
    assert head.returncode == 0, output
    assert "finetune@digits-100-gta-0.1: its worker was killed; it is tried again" in output
    cells = {f"{kind}@digits-100-{cell}" for kind in ("finetune", "evaluate") for cell in CELLS}
    assert set(done(output)) == {"aggregate"} | cells
    log = (pool.path / "runs/cluster/log/finetune@digits-100-gta-0.1.txt").read_text()
    assert "goes on after epoch" in log
    assert_same(pool, serial)


@pytest.fixture
def cluster() -> Iterator[Slurm]:
    if reason := missing():
        pytest.skip(reason)
    with slurm() as started:
        yield started


def test_slurm_of_which_the_node_is_killed_gives_what_a_serial_run_gives(
    prepared: Repository, serial: Repository, cluster: Slurm, tmp_path: Path
) -> None:
    """The head dies too, and one job is warned of its time limit; the shell of its stage dies of that, and
    the node takes its time to clean up."""
    made = prepared.copy(tmp_path / "slurm")
    made.environment |= cluster.environment | {"SHELL": "/bin/sh"}
    set_up(made, executor="slurm")
    hasty = "from tools.cluster import slurm, __main__; slurm.LOST_AFTER = 0; __main__.main()"
    with started(made, ["python", "-c", hasty]) as head:
        wait_for(lambda: checkpoint(made, "gta-0.1"))
        (recorded,) = (made.path / "runs/cluster/tasks/finetune@digits-100-gta-0.1").glob("*/job")
        job = recorded.read_text()
        number = cluster.ask("squeue", "--noheader", "--format=%A", "--jobs", job).strip()
        (cluster.folder / "slow").write_text(number)
        warn(cluster, job)
        head.kill()
    cluster.kill("slurmd")
    cluster.revive()
    with started(made) as head:
        assert head.stdout is not None
        read_to(f"finetune@digits-100-gta-0.1: job {job} of an earlier call goes on", head.stdout)
        start_soon(cluster, job)
        output, _ = head.communicate(timeout=600)
    assert head.returncode == 0, output
    log = (made.path / "runs/cluster/log/finetune@digits-100-gta-0.1.txt").read_text()
    assert "saved, and ended before its time was up" in log, log
    assert "goes on after epoch" in log
    assert_same(made, serial)


# --- A pipeline of the same shape whose stages are a line of shell.

STUBS = """
stages:
  check:
    cmd: mkdir -p runs && echo ok > runs/checked
    deps: [params.yaml]
    outs: [runs/checked]
  finetune:
    matrix: {fraction: '${grid.fractions}', method: '${grid.methods}'}
    cmd: sh cell.sh ${item.fraction} ${item.method} runs/finetune/${item.fraction}/${item.method}
    deps: [cell.sh, runs/checked]
    outs: ['runs/finetune/${item.fraction}/${item.method}']
  evaluate:
    matrix: {fraction: '${grid.fractions}', method: '${grid.methods}'}
    cmd: >-
      mkdir -p runs/evaluate/${item.fraction} &&
      wc -c < runs/finetune/${item.fraction}/${item.method}/out
      > runs/evaluate/${item.fraction}/${item.method}
    deps: ['runs/finetune/${item.fraction}/${item.method}']
    outs: ['runs/evaluate/${item.fraction}/${item.method}']
  aggregate:
    cmd: mkdir -p results && cat runs/evaluate/*/* > results/table
    deps: [runs/evaluate]
    params: [grid]
    outs: [results/table: {cache: false}]
"""
CELL = """
echo "$1 $2" >> runs/state/log
case $2 in
bad) echo 'error: expected a good cell, got a bad one' >&2; exit 1;;
once) test -e runs/state/once || { touch runs/state/once; kill -9 $$; };;
torn) test -e runs/state/torn || { echo '{' > .dvc/tmp/rwlock; touch runs/state/torn; sleep 60; };;
slow) test -e runs/state/slow || { touch runs/state/slow; sleep 60; };;
esac
mkdir -p "$3" && echo "$1 $2" > "$3/out"
"""


@pytest.fixture
def stubs(tmp_path: Path) -> Repository:
    path = tmp_path / "a group's, shared"
    (path / "runs/state").mkdir(parents=True)
    made = Repository.at(path)
    made.environment |= {"PYTHONPATH": str(ROOT)}
    (path / "dvc.yaml").write_text(STUBS)
    (path / "cell.sh").write_text(CELL)
    (path / ".gitignore").write_text("/runs/\n")
    grid(made, "a", "b")
    set_up_stubs(made)
    for command in ("git init -q", "dvc init -q", "git add -A", "git commit -qm start"):
        made.run(*command.split())
    return made


def set_up_stubs(repository: Repository, **changes: Any) -> None:
    set_up(repository, here=["check"], slurm={"default": small_cluster()["slurm"]["default"]}, **changes)


def grid(repository: Repository, *methods: str) -> None:
    repository.write_params({"grid": {"fractions": [15], "methods": list(methods)}})


def ran(repository: Repository) -> list[str]:
    """The cells that were trained, each attempt."""
    return (repository.path / "runs/state/log").read_text().splitlines()


def lock(repository: Repository) -> bytes:
    return (repository.path / "dvc.lock").read_bytes()


def test_one_more_method_runs_its_cells_alone_and_the_lock_is_that_of_a_serial_run(
    stubs: Repository, tmp_path: Path
) -> None:
    alone = stubs.copy(tmp_path / "alone")
    for methods in (["a", "b"], ["a", "c", "b"]):
        for repository in (stubs, alone):
            grid(repository, *methods)
        alone.repro()
        output = stubs.run(*COMMAND)
        assert lock(stubs) == lock(alone)
    # `check` reads all of params.yaml
    assert set(done(output)) == {"check", "finetune@15-c", "evaluate@15-c", "aggregate"}
    assert "Data and pipelines are up to date." in output
    assert done(stubs.run(*COMMAND)) == []
    status = ["git", "status", "--short", "dvc.lock"]  # in git's index, as DVC's autostage leaves it
    assert stubs.run(*status) == alone.run(*status)
    for repository in (stubs, alone):  # what the old lock entries name is still in the cache
        (repository.path / "cell.sh").write_text(CELL.replace('"$1 $2" > ', '"$1 $2, again" > '))
    alone.repro()
    stubs.run(*COMMAND)
    assert lock(stubs) == lock(alone)


def test_what_the_run_cache_has_is_not_run(stubs: Repository) -> None:
    stubs.run(*COMMAND)
    before, trained = lock(stubs), ran(stubs)
    (stubs.path / "dvc.lock").unlink()
    stubs.run("sh", "-c", "rm -r runs/finetune runs/evaluate")
    assert done(stubs.run(*COMMAND)) == ["aggregate"]
    assert (lock(stubs), ran(stubs)) == (before, trained)


def test_a_refused_cell_is_told_in_a_line_and_stops_no_other(stubs: Repository) -> None:
    grid(stubs, "bad", "a")
    output = stubs.run(*COMMAND, status=1)
    assert output.splitlines()[-2:] == [
        "error: finetune@15-bad: expected a good cell, got a bad one",
        "left out, since they need it: 2 stages",
    ]
    assert sorted(ran(stubs)) == ["15 a", "15 bad"], "a bad cell was tried again"
    assert "evaluate@15-a" in done(output)


def test_a_cell_that_fails_without_a_word_is_tried_again(stubs: Repository) -> None:
    grid(stubs, "once")
    assert "it is tried again" in stubs.run(*COMMAND)
    assert len(ran(stubs)) == 2
    (stubs.path / "cell.sh").write_text("echo before; exit 3\n")
    output = stubs.run(*COMMAND, status=1)
    assert output.count("it is tried again") == 1
    assert "error: finetune@" in output
    assert "exited with 3: before" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_head_leaves_nothing_running_and_the_next_repeats_nothing(
    stubs: Repository, number: int
) -> None:
    grid(stubs, "a", "slow")
    with started(stubs) as head:
        wait_for(lambda: (stubs.path / "runs/state/slow").exists())
        wait_for(lambda: [*(stubs.path / "runs/cluster/tasks/finetune@15-a").glob("*/result.json")])
        os.kill(head.pid, number)
        output, _ = head.communicate(timeout=60)
    wait_for(lambda: not working_in(stubs.path), 30)
    if number == signal.SIGINT:
        assert "stopped, nothing is left running; `make cluster` goes on from here" in output
    trained = ran(stubs)
    grid(stubs, "a")
    output = stubs.run(*COMMAND)
    assert "finetune@15-a" not in done(output)
    assert ran(stubs) == trained


def test_a_stage_goes_on_when_what_workers_are_forks_of_is_killed(stubs: Repository) -> None:
    grid(stubs, "slow")
    task = stubs.path / "runs/cluster/tasks/finetune@15-slow"
    with started(stubs) as head:
        wait_for(lambda: (stubs.path / "runs/state/slow").exists())
        (pid,) = holding(task)
        worker = psutil.Process(pid)
        forks = worker.parent()
        assert forks is not None
        forks.kill()
        time.sleep(1)  # the head looks at its workers some twenty times
        (sleep,) = [child for child in worker.children(recursive=True) if child.name() == "sleep"]
        sleep.kill()
        output, _ = head.communicate(timeout=60)
    assert head.returncode == 0, output
    assert "finetune@15-slow" in done(output)
    assert ran(stubs) == ["15 slow"]


def test_a_stage_is_tried_again_when_what_workers_are_forks_of_is_killed_before_it_is_one(
    stubs: Repository,
) -> None:
    grid(stubs, "a")
    with started(stubs) as head:
        wait_for(lambda: forks_of(head.pid)).kill()
        output, _ = head.communicate(timeout=60)
    assert head.returncode == 0, output
    assert "its worker was killed; it is tried again" in output
    assert ran(stubs) == ["15 a"]


def test_the_lock_file_is_written_while_workers_work(stubs: Repository) -> None:
    """When its time has come, not when the next of them ends."""
    grid(stubs, "a", "slow")
    soon = "from tools.cluster import grid, __main__; grid.WRITE_EVERY = 8; __main__.main()"
    with started(stubs, ["python", "-c", soon]) as head:
        wait_for(lambda: [*(stubs.path / "runs/cluster/tasks/evaluate@15-a").glob("*/result.json")])
        assert not (stubs.path / "dvc.lock").exists()
        wait_for(lambda: (stubs.path / "dvc.lock").exists() and b"finetune@15-a:" in lock(stubs), 30)
        assert head.poll() is None
        head.send_signal(signal.SIGINT)
        head.communicate(timeout=60)


def test_what_a_killed_head_and_worker_have_begun_is_mended(stubs: Repository) -> None:
    stubs.run(*COMMAND)
    whole, trained = lock(stubs), ran(stubs)
    (stubs.path / "dvc.lock").write_bytes(whole[: len(whole) // 2])
    output = stubs.run(*COMMAND)
    assert "dvc.lock was damaged: " in output
    assert set(done(output)) <= {"aggregate"}
    assert (lock(stubs), ran(stubs)) == (whole, trained)
    for entry in (stubs.path / ".dvc/cache/runs").glob("*/*/*"):
        entry.unlink()  # DVC would say: join() argument must be str
        os.utime(entry.parent, (0, 0))
    (stubs.path / "dvc.lock").unlink()
    assert "finetune@15-a" in done(stubs.run(*COMMAND))
    assert lock(stubs) == whole


def test_a_second_head_is_refused(stubs: Repository) -> None:
    grid(stubs, "slow")
    with started(stubs) as head:
        wait_for(lambda: (stubs.path / "runs/state/slow").exists())
        assert "`make cluster` runs already in this folder" in stubs.run(*COMMAND, status=1)
        head.send_signal(signal.SIGINT)


# --- Settings.

KINDS = {"check", "download", "objects", "split", "source", "finetune", "evaluate"}


def test_the_committed_settings_are_right() -> None:
    kinds = set(read_params(ROOT / "dvc.yaml")["stages"])
    found = read_settings(kinds, ROOT / "cluster.yaml")
    assert found.of("finetune").gpus == 1
    assert found.of("evaluate") == found.resources["default"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("executor", "pbs", "cluster.yaml: executor: input should be 'local' or 'slurm', got 'pbs'"),
        ("workers", 0, "cluster.yaml: workers: input should be greater than 0, got 0"),
        ("worker", 2, "cluster.yaml: worker: unknown key; expected one of: executor, workers, gpus, threads"),
        ("here", ["finetun"], "cluster.yaml: here: expected stages of the pipeline .* got 'finetun'"),
        ("keep", ["../up"], "cluster.yaml: keep: expected folders inside the repository, got '../up'"),
        ("slurm", {}, "cluster.yaml: slurm.default: missing"),
        ("slurm", {"default": {"minute": 5}}, "cluster.yaml: slurm.default.minute: unknown key"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with Path("cluster.yaml").open("w") as stream:
        YAML().dump(small_cluster() | {key: value}, stream)
    with pytest.raises(InputError, match=message):
        read_settings(KINDS)


def test_slurm_without_slurm_is_one_line(stubs: Repository) -> None:
    set_up_stubs(stubs, executor="slurm")
    stubs.environment["PATH"] = f"{Path(ENVIRONMENT['PATH'].split(os.pathsep)[0])}"
    stubs.environment["PATH"] += f"{os.pathsep}{stubs.path / 'bin'}"
    (stubs.path / "bin").mkdir()
    (stubs.path / "bin/git").symlink_to("/usr/bin/git")
    output = stubs.run(*COMMAND, status=1)
    assert output.endswith(
        "error: cluster.yaml: executor: 'slurm' needs sbatch, which is not found on this machine\n"
    )


def test_slurm_that_does_not_answer_is_one_line(stubs: Repository, cluster: Slurm) -> None:
    """Nothing is submitted: what an earlier call has submitted is not known."""
    set_up_stubs(stubs, executor="slurm")
    settings = (cluster.folder / "slurm.conf").read_text()
    (stubs.path / "slurm.conf").write_text(settings.replace("munge.socket", "absent.socket"))
    stubs.environment |= cluster.environment | {"SLURM_CONF": str(stubs.path / "slurm.conf")}
    output = stubs.run(*COMMAND, status=1)
    assert output.splitlines()[-1].startswith("error: Slurm does not answer: squeue: error: ")
    assert cluster.ask("squeue", "--noheader") == ""


def test_a_job_that_was_cancelled_is_not_waited_for(stubs: Repository, cluster: Slurm) -> None:
    """By Ctrl-C; Slurm lists it for as long as the node cleans up after it."""
    grid(stubs, "slow")
    set_up_stubs(stubs, executor="slurm")
    stubs.environment |= cluster.environment
    with started(stubs) as head:
        wait_for(lambda: (stubs.path / "runs/state/slow").exists())
        (cluster.folder / "slow").write_text(cluster.ask("squeue", "--noheader", "--format=%A").strip())
        head.send_signal(signal.SIGINT)
        head.communicate(timeout=60)
    output = stubs.run(*COMMAND)
    assert "of an earlier call" not in output
    assert "finetune@15-slow" in done(output)


def test_a_job_that_was_warned_has_no_result_whatever_dvc_makes_of_that(
    stubs: Repository, cluster: Slurm
) -> None:
    """Slurm's own signals may tear DVC out of writing its file of locks, which it cannot read then."""
    grid(stubs, "torn")
    set_up_stubs(stubs, executor="slurm")
    stubs.environment |= cluster.environment
    with started(stubs) as head:
        wait_for(lambda: (stubs.path / "runs/state/torn").exists())
        job = cluster.ask("squeue", "--noheader", "--format=%i").strip()
        warn(cluster, job)
        start_soon(cluster, job)
        output, _ = head.communicate(timeout=60)
    assert "it is tried again" not in output
    assert "finetune@15-torn" in done(output)


def test_a_job_that_is_held_is_told(stubs: Repository, cluster: Slurm) -> None:
    grid(stubs, "a")
    resources = small_cluster()["slurm"]["default"] | {"flags": {"hold": True}}
    set_up(stubs, executor="slurm", here=["check", "evaluate"], slurm={"default": resources})
    stubs.environment |= cluster.environment
    with started(stubs) as head:
        assert head.stdout is not None
        (job,) = wait_for(lambda: cluster.ask("squeue", "--noheader", "--format=%i").split())
        told = f"finetune@15-a: Slurm holds job {job} (JobHeldUser) until it is told: scontrol release {job}"
        read_to(told, head.stdout)
        cluster.ask("scontrol", "release", job)
        output, _ = head.communicate(timeout=60)
    assert "Slurm holds" not in output
    assert "finetune@15-a" in done(output)
