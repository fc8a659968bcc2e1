"""How a stage ends on a fault of the disk, and on Ctrl-C: one line, and a status."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from repository import ROOT

from gta.atomic import atomic_file, atomic_folder
from gta.errors import DISK, run


def fault(number: int, name: str | None) -> OSError:
    return OSError(number, os.strerror(number), name) if name else OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", DISK)
def test_a_fault_of_the_disk_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise fault(number, "data/index.csv")

    with pytest.raises(SystemExit) as status:
        run(main)
    assert status.value.code == 1
    said = f"error: data/index.csv: {os.strerror(number)}; {DISK[number]}, then `make repro` goes on\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(("number", "name"), [(errno.EBADF, "a"), (errno.ENOSPC, None)])
def test_another_fault_is_not_hidden(number: int, name: str | None) -> None:
    def main() -> None:
        raise fault(number, name)

    with pytest.raises(OSError, match=os.strerror(number)):
        run(main)


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as status:
        run(main)
    assert status.value.code == 130
    assert capsys.readouterr().err == "interrupted; `make repro` goes on\n"


def test_a_stage_leaves_without_taking_apart_what_it_imported() -> None:
    """But not without what was to be done at its end, and with garbage collected while it worked."""
    program = """
import atexit, gc, sys, tempfile
sys.argv[0] = "-m"
import stages
assert not gc.isenabled()
from gta.errors import run
class Kept:
    def __del__(self):
        print("taken apart")
def main():
    global kept, folder
    assert gc.isenabled()
    kept, folder = Kept(), tempfile.TemporaryDirectory()
    atexit.register(lambda: print("at the end"))
    print(folder.name)
run(main)
print("went on")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    folder, *rest = done.stdout.splitlines()
    assert rest == ["at the end"]
    assert not Path(folder).exists()


@pytest.mark.parametrize("adopted", [True, False])
def test_a_stage_whose_dvc_ended_while_it_was_loading_ends_too(adopted: bool, tmp_path: Path) -> None:
    code = (
        "import time; time.sleep(1); from gta.errors import run; run(lambda: (time.sleep(1), print('done')))"
    )
    (tmp_path / "stage.py").write_text(code)
    shell = f"{sys.executable} {tmp_path / 'stage.py'} {'&' if adopted else ''}"
    done = subprocess.run(  # ends when nobody can write any more
        ["sh", "-c", shell],
        env=os.environ | {"DVC_STAGE": "stage", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout == ("" if adopted else "done\n")


@pytest.mark.parametrize("whole", [atomic_file, atomic_folder])
def test_a_write_that_fails_names_its_file_and_leaves_nothing(
    whole: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*/out'"), whole(tmp_path / "out"):
        raise fault(errno.ENOSPC, None)
    with pytest.raises(OSError, match="'other'"), whole(tmp_path / "out"):
        raise fault(errno.ENOSPC, "other")
    assert not list(tmp_path.iterdir())


def test_a_sync_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").write_text("old")

    def broken(_: int) -> None:
        raise fault(errno.EIO, None)

    monkeypatch.setattr(os, "fsync", broken)
    with (
        pytest.raises(OSError, match=r"Input/output error: '.*/out'"),
        atomic_file(tmp_path / "out") as partial,
    ):
        partial.write_text("new")
    assert (tmp_path / "out").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
