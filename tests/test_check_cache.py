"""tools.check_cache: damage in the cache and in a remote is named, removed, and repaired from the other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from repository import ENVIRONMENT, ROOT

PIPELINE = """
stages:
  make:
    cmd: mkdir -p many && echo one > many/1 && echo two > many/2 && echo more than one block > single
    outs: [many, single]
"""


class Project:
    """A pipeline of one stage, pushed to a remote folder beside it."""

    def __init__(self, path: Path) -> None:
        self.path, self.remote = path / "project", path / "store"

    def run(self, *command: str, status: int = 0) -> str:
        done = subprocess.run(
            command,
            cwd=self.path,
            env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def check(self, status: int) -> str:
        return self.run("python", "-m", "tools.check_cache", status=status)

    def file(self, store: str, oid: str) -> Path:
        root = self.path / ".dvc/cache" if store == "cache" else self.remote
        return root / "files/md5" / oid[:2] / oid[2:]

    def oid(self, name: str) -> str:
        return self.run("md5sum", name).split()[0]

    def listing(self) -> str:
        """The object that lists the folder `many`."""
        (found,) = (self.remote / "files/md5").rglob("*.dir")
        return found.parent.name + found.name


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pushed")
    (path / "project").mkdir()
    (path / "project/dvc.yaml").write_text(PIPELINE)
    commands = [
        "git init -q",
        "dvc init -q",
        "dvc repro -q",
        "dvc remote add -d store ../store",
        "dvc push -q",
    ]
    for command in commands:
        Project(path).run(*command.split())
    return path


@pytest.fixture
def project(pushed: Path, tmp_path: Path) -> Project:
    shutil.copytree(pushed, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path)


def harm(path: Path, how: str) -> None:
    """Keeps the mode by which DVC takes an object for whole."""
    content = path.read_bytes()
    path.chmod(0o644)
    if how == "missing":
        path.unlink()
        return
    damage = {"flipped": bytes([content[0] ^ 1]) + content[1:], "truncated": content[:-1], "emptied": b""}
    path.write_bytes(damage[how])
    path.chmod(0o444)


def test_a_whole_cache_and_remote(project: Project) -> None:
    said = project.check(0)
    assert "cache: 4 objects are whole, remote store: 4 objects are whole; 0 were bad or missing" in said


@pytest.mark.parametrize("store", ["cache", "remote store"])
@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied"])
@pytest.mark.parametrize("name", ["many/1", "single"])
def test_damage_is_named_and_repaired(project: Project, store: str, how: str, name: str) -> None:
    oid = project.oid(name)
    file = project.file(store, oid)
    whole = file.read_bytes()
    harm(file, how)
    assert "up to date" in project.run("dvc", "status")  # DVC does not see it
    said = project.check(1)
    other = "remote store" if store == "cache" else "cache"
    line = f"{store}: {oid} is damaged (make: {project.path / name}): copied from {other}"
    assert line in said
    assert "1 were bad or missing, 1 of them are repaired" in said
    assert file.read_bytes() == whole
    assert "0 were bad" in project.check(0)


@pytest.mark.parametrize("store", ["cache", "remote store"])
def test_a_file_missing_out_of_a_folder_is_brought_back(project: Project, store: str) -> None:
    oid = project.oid("many/2")
    harm(project.file(store, oid), "missing")
    project.run("dvc", "push")  # DVC takes the folder for pushed
    said = project.check(1)
    assert f"{store}: {oid} is missing (make: {project.path / 'many/2'}): copied from " in said
    assert project.file(store, oid).read_text() == "two\n"
    assert "0 were bad" in project.check(0)


def test_a_damaged_listing_of_a_folder_is_repaired(project: Project) -> None:
    oid = project.listing()
    harm(project.file("cache", oid), "truncated")
    said = project.check(1)
    assert f"cache: {oid} is damaged (make: {project.path / 'many'}): copied from remote store" in said
    assert "0 were bad" in project.check(0)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_what_cannot_be_read_is_never_removed(project: Project, elsewhere: bool) -> None:
    """It may be the net's fault. Here, as one that root meets too: a link to nowhere."""
    oid = project.oid("single")
    file = project.file("remote store", oid)
    file.unlink()
    file.symlink_to("nowhere")
    if not elsewhere:
        harm(project.file("cache", oid), "missing")
        (project.path / "single").unlink()
    said = project.check(1)
    assert f"remote store: {oid}: [Errno 2] No such file" in said
    outcome = "copied from cache" if elsewhere else "nobody else has it: left as it is"
    assert f"remote store: {oid} is unreadable (make: {project.path / 'single'}): {outcome}" in said
    assert file.is_symlink() != elsewhere


def test_what_both_lost_is_taken_from_the_working_tree(project: Project) -> None:
    oid = project.oid("single")
    for store in ("cache", "remote store"):
        harm(project.file(store, oid), "flipped")
    said = project.check(1)
    assert f"cache: {oid} is damaged (make: {project.path / 'single'}): copied from the working tree" in said
    assert "2 were bad or missing, 2 of them are repaired" in said
    assert "0 were bad" in project.check(0)


def test_what_nobody_has_is_removed_and_made_again(project: Project) -> None:
    oid = project.oid("single")
    for store in ("cache", "remote store"):
        harm(project.file(store, oid), "flipped")
    (project.path / "single").unlink()
    said = project.check(1)
    assert said.count("nobody has it: removed; `dvc repro` makes it again") == 2
    assert "cache: " in project.check(1), "still missing"
    project.run("dvc", "repro")
    project.run("dvc", "push")
    assert "0 were bad" in project.check(0)


def test_an_output_that_was_not_pulled_is_no_fault(project: Project) -> None:
    harm(project.file("cache", project.oid("single")), "missing")
    assert "cache: 3 objects are whole, remote store: 4 objects are whole; 0 were bad" in project.check(0)


def test_an_object_of_an_earlier_version_is_checked_too(project: Project) -> None:
    oid = project.oid("single")
    (project.path / "dvc.yaml").write_text(PIPELINE.replace("more than", "less than"))
    project.run("dvc", "repro")
    harm(project.file("cache", oid), "flipped")
    said = project.check(1)
    assert f"cache: {oid} is damaged (an earlier version, or a run of the run cache): copied from" in said


def test_a_remote_that_is_not_there_is_one_line(project: Project) -> None:
    project.run("dvc", "remote", "add", "far", "ssh://nobody@127.0.0.1:1/x")
    lines = project.check(1).splitlines()
    assert lines[-1].startswith("error: remote far: cannot be reached: ")


def test_what_a_push_has_begun_is_no_object(project: Project) -> None:
    begun = project.file("remote", "3b.RvDTHirrRrfQjc3QbNbTig.tmp")
    begun.parent.mkdir()
    begun.write_text("hal")
    said = project.check(0)
    assert "remote store: 1 half-written files, of a push that was killed or is under way" in said
    assert "; 0 were bad or missing" in said
    assert begun.exists()
