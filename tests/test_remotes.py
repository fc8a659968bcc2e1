"""One study shared through each kind of remote: nothing is computed twice, and no damage is passed on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from repository import Repository, small_params
from servers import SERVERS, Remote

CELL = "finetune@digits-100-baseline"


class Shared(NamedTuple):
    """A finished study whose cache was pushed to a remote."""

    first: Repository
    remote: Remote


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    values = small_params()
    values["grid"] |= {"fractions": [100], "methods": ["baseline"], "seeds": [0]}
    made = Repository(tmp_path_factory.mktemp("study"), values)
    made.repro()
    made.run("git", "add", "-A")
    made.run("git", "commit", "-qm", "run")
    return made


def join(repository: Repository, remote: Remote) -> None:
    """What a colleague does once, as docs/sharing.md says."""
    repository.environment |= remote.environment
    make = ["make", "--silent", "--old-file=.venv/installed", "remote", f"URL={remote.url}"]
    repository.run(*make)
    for key, value in remote.options.items():
        repository.run("dvc", "remote", "modify", "--local", "store", key, value)


@pytest.fixture(scope="module", params=SERVERS)
def shared(
    request: pytest.FixtureRequest, study: Repository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    place = tmp_path_factory.mktemp(request.param)
    with SERVERS[request.param](place) as remote:
        first = study.copy(place / "first")
        join(first, remote)
        first.run("dvc", "push", "--run-cache")
        yield Shared(first, remote)


def clone_of(shared: Shared, path: Path) -> Repository:
    """An empty machine: a clone with a cache of its own."""
    shared.first.run("git", "clone", "-q", ".", str(path))
    clone = Repository.at(path)
    join(clone, shared.remote)
    return clone


def assert_same(clone: Repository, first: Repository) -> None:
    assert clone.run("git", "status", "--short") == ""
    for folder in ("results", "runs/finetune", "runs/evaluate", "data", "sources"):
        assert clone.files(folder) == first.files(folder)
    for name in ["dvc.lock", *(f"results/{name}" for name in first.files("results"))]:
        assert (clone.path / name).read_bytes() == (first.path / name).read_bytes(), name


def test_a_second_clone_computes_nothing(shared: Shared, tmp_path: Path) -> None:
    clone = clone_of(shared, tmp_path / "clone")
    clone.run("dvc", "pull")
    assert clone.repro() == []
    assert_same(clone, shared.first)
    lazy = clone_of(shared, tmp_path / "lazy")
    assert lazy.repro("--pull") == []
    assert_same(lazy, shared.first)
    assert "objects are whole; 0 were bad" in clone.run("python", "-m", "tools.check_cache")


def test_credentials_stay_where_they_are(shared: Shared) -> None:
    secret, root = shared.remote.secret, shared.first.path
    for command in ("pull --verbose", "remote list", "status --cloud"):
        said = shared.first.run("dvc", *command.split())
        assert not secret or secret not in said, command
    tracked = shared.first.run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in tracked.strip("\0").split("\0"):
        assert not secret or secret.encode() not in (root / name).read_bytes(), name
    for name in (".dvc/config", "dvc.lock"):
        assert shared.remote.url not in (root / name).read_text(), name
    assert shared.remote.url in (root / ".dvc/config.local").read_text()


def stored(shared: Shared, name: str) -> tuple[str, Path]:
    """The object of a file of the study, and its file in the remote's folder."""
    oid = shared.first.run("md5sum", name).split()[0]
    return oid, shared.remote.folder / "files/md5" / oid[:2] / oid[2:]


def flip(path: Path) -> None:
    """One bit in the middle; the size, and the mode by which DVC takes a file for checked, stay."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)


def test_a_flipped_bit_in_the_remote_is_refused_named_and_repaired(shared: Shared, tmp_path: Path) -> None:
    weights = "runs/finetune/digits/100/baseline/seed0.safetensors"
    oid, file = stored(shared, weights)
    whole = file.read_bytes()
    flip(file)
    clone = clone_of(shared, tmp_path / "clone")
    said = clone.run("dvc", "pull", status=1)
    assert "runs/finetune/digits/100/baseline" in said
    assert not (clone.path / weights).exists()
    said = clone.run("python", "-m", "tools.check_cache", status=1)  # it has no copy to give
    assert f"remote store: {oid} is damaged" in said
    assert f"{CELL}: {clone.path / weights}" in said
    assert "nobody has it" in said
    assert not file.exists()
    said = shared.first.run("python", "-m", "tools.check_cache", status=1)  # it has
    assert f"remote store: {oid} is missing" in said
    assert "copied from cache" in said
    assert file.read_bytes() == whole
    clone.run("dvc", "pull")
    assert clone.repro() == []


def test_what_one_branch_computed_is_there_for_all(study: Repository, tmp_path: Path) -> None:
    """Even from runs that no commit holds: by the run cache."""
    with SERVERS["folder"](tmp_path) as remote:
        shared = Shared(study.copy(tmp_path / "first"), remote)
        join(shared.first, remote)
        values = small_params()
        values["grid"] |= {"fractions": [100], "methods": ["baseline", "gta-0.1"], "seeds": [0]}
        shared.first.write_params(values)
        ran = shared.first.repro()
        assert "finetune@digits-100-gta-0.1" in ran
        assert CELL not in ran
        shared.first.run("dvc", "push", "--run-cache")
        shared.first.run("git", "checkout", "-q", ".")
        shared.first.run("dvc", "checkout")
        clone = clone_of(shared, tmp_path / "clone")
        clone.write_params(values)
        # the results are kept by git, and an output out of the cache has no place in the run cache
        assert clone.repro("--pull") == ["aggregate"]
        assert clone.files("runs/finetune/digits/100/gta-0.1") == ["history.csv", "seed0.safetensors"]


def test_a_data_set_that_may_not_be_shared_is_built_from_its_mirrors(
    study: Repository, tmp_path: Path
) -> None:
    with SERVERS["folder"](tmp_path) as remote:
        shared = Shared(study.copy(tmp_path / "first"), remote)
        join(shared.first, remote)
        own = ["download@digits", "pack@digits"]
        names = shared.first.run("dvc", "stage", "list", "--name-only").split()
        shared.first.run("dvc", "push", "--run-cache", *(name for name in names if name not in own))
        pictures = {path.read_bytes() for path in (shared.first.path / "data/digits/images").rglob("*.png")}
        pictures |= {path.read_bytes() for path in (shared.first.path / "data/digits/pixels").rglob("*.npy")}
        assert len(pictures) > 2
        assert not pictures & {path.read_bytes() for path in remote.folder.rglob("*") if path.is_file()}
        clone = clone_of(shared, tmp_path / "clone")
        clone.run("dvc", "pull", "--allow-missing")
        assert sorted(clone.repro()) == own
        assert_same(clone, shared.first)
