"""tools.mend: whatever a killed DVC leaves of its files, one repair gives them back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from repository import ENVIRONMENT, ROOT

import tools.mend
from tools.mend import entries, is_valid, joined, tidy

PIPELINE = """
stages:
  first:
    cmd: mkdir first && cp start first/file
    deps: [start]
    outs: [first]
  second:
    cmd: cp -r first second && echo 2 > second.csv
    deps: [first]
    outs: [second, second.csv]
  third:
    cmd: cp second.csv third
    deps: [second.csv]
    outs: [third]
"""


def run(folder: Path, *command: str, status: int = 0) -> str:
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)}, text=True, capture_output=True
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def mend(folder: Path) -> str:
    return run(folder, "python", "-m", "tools.mend")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "start").write_text("1\n")
    for command in ("git init -q", "dvc init -q", "dvc repro"):
        run(folder, *command.split())
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "project")


def test_a_whole_lock_file_is_read_as_dvc_writes_it(project: Path) -> None:
    text = (project / "dvc.lock").read_text()
    assert is_valid(text)
    assert list(entries(text)) == ["first", "second", "third"]
    assert joined(entries(text)) == text
    assert mend(project) == ""


@pytest.mark.parametrize("committed", [False, True])
def test_a_lock_file_cut_anywhere_comes_back(project: Path, committed: bool) -> None:
    """Without a run: DVC has all outputs in its cache."""
    lock = project / "dvc.lock"
    whole = lock.read_text()
    if committed:
        run(project, "git", "add", "-A")
        run(project, "git", "commit", "-qm", "all")
    damaged = [end for end in range(0, len(whole), len(whole) // 9) if not is_valid(whole[:end])]
    assert len(damaged) > 4
    for end in damaged:
        lock.write_text(whole[:end])
        assert "dvc.lock was damaged: " in mend(project)
        if not committed:
            assert not lock.exists() or is_valid(lock.read_text())
            assert "Running" not in run(project, "dvc", "repro")
        assert lock.read_text() == whole


def test_a_lock_file_that_is_gone_is_the_last_commits(project: Path) -> None:
    """DVC would make it again, with its stages in another order."""
    lock = project / "dvc.lock"
    whole = lock.read_text()
    lock.unlink()
    assert mend(project) == "", "it is in no commit"
    lock.write_text(whole)
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "all")
    lock.unlink()
    assert "0 whole entries are kept, 3 are the last commit's" in mend(project)
    assert lock.read_text() == whole


def test_a_list_of_users_that_is_none_is_removed(project: Path) -> None:
    users = project / ".dvc/tmp/rwlock"
    users.write_text('{"write": {')
    assert "rwlock was damaged: removed" in mend(project)
    assert not users.exists()
    users.write_text(json.dumps({"read": {}, "write": {}}))
    assert mend(project) == ""
    assert users.exists()


def test_an_entry_of_the_run_cache_that_was_begun_alone_is_removed(project: Path) -> None:
    """With it DVC 3.67 could never again run the stage."""
    for file in (project / ".dvc/cache/runs").glob("*/*/*"):
        begun = file.rename(file.with_name(".tmp"))
        for path in (begun, begun.parent):
            os.utime(path, (0, 0))
    whole = (project / "dvc.lock").read_text()
    (project / "dvc.lock").unlink()
    mend(project)
    assert not list((project / ".dvc/cache/runs").glob("*/*"))
    assert run(project, "dvc", "repro").count("Running stage") == 3
    assert (project / "dvc.lock").read_text() == whole


def test_an_entry_of_the_run_cache_that_somebody_is_at_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker, or a colleague who shares the cache, writes it in this moment."""
    entry = tmp_path / "ab/abc"
    entry.mkdir(parents=True)
    (entry / ".tmp").write_text("beg")
    written = entry / ("0" * 64)
    monkeypatch.setattr(tools.mend.time, "sleep", lambda _: (entry / ".tmp").rename(written))
    tidy(entry)
    assert [*entry.iterdir()] == [written]
    tidy(tmp_path / "none")


def test_a_half_written_object_goes_unless_others_share_the_cache(project: Path) -> None:
    half = project / ".dvc/cache/files/md5/.abc.tmp"
    half.write_text("half")
    run(project, "dvc", "cache", "dir", "--local", "../shared")
    shared = project.parent / "shared/files/md5/.abc.tmp"
    shared.parent.mkdir(parents=True)
    shared.write_text("half")
    mend(project)
    assert shared.exists()
    run(project, "dvc", "cache", "dir", "--local", "--unset")
    mend(project)
    assert not half.exists()


def test_it_waits_for_no_other_dvc_for_ever(project: Path) -> None:
    holding = "import time; from dvc.repo import Repo; r = Repo(); r.lock.lock(); print('held', flush=True); "
    with subprocess.Popen(
        ["python", "-c", f"{holding}time.sleep(60)"], cwd=project, env=ENVIRONMENT, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        said = run(project, "python", "-m", "tools.mend", status=1)
        other.kill()
    assert said.startswith("error: .dvc/tmp/lock: another DVC is at work here")
