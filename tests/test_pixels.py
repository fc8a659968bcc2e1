"""The packed images: the pixels of the files, sizes as asked for, clear words for what is missing."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gta.errors import InputError
from gta.pixels import Pixels, pack

SIZES = {"images/a/wide.png": (70, 31), "images/b/tall, odd.png": (20, 90), "images/b/dot.png": (1, 1)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def test_as_they_are(folder: Path) -> None:
    pack(folder, list(SIZES), None, folder / "train.npy")
    pixels = pickle.loads(pickle.dumps(Pixels(folder / "train.npy")))  # as another process gets it
    for name, size in SIZES.items():
        with Image.open(folder / name) as image:
            assert np.array_equal(pixels[name], np.asarray(image))
        assert pixels.full_size(name) == size
        assert pixels.hashes([name]) == [hashlib.sha256(pixels[name].tobytes()).hexdigest()]
    assert not pixels.flat.flags.writeable


def test_smaller_to_the_shorter_side_and_never_larger(folder: Path) -> None:
    pack(folder, list(SIZES), 25, folder / "train.npy")
    pixels = Pixels(folder / "train.npy")
    assert [pixels[name].shape for name in SIZES] == [(25, 56, 3), (90, 20, 3), (1, 1, 3)]
    with Image.open(folder / "images/a/wide.png") as image:
        smaller = np.asarray(image.resize((56, 25), Image.Resampling.BICUBIC))
    assert np.array_equal(pixels["images/a/wide.png"], smaller)
    assert pixels.full_size("images/a/wide.png") == (70, 31)


def test_none_at_all(tmp_path: Path) -> None:
    pack(tmp_path, [], None, tmp_path / "test.npy")
    assert len(Pixels(tmp_path / "test.npy").flat) == 0


def test_a_full_disk_is_noticed_before_a_page_of_it_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int, start: int, length: int) -> None:
        assert start == 128  # NumPy's header
        assert length % 3 == 0
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/out\.npy'"):
        pack(folder, list(SIZES), None, folder / "packed/out.npy")
    assert not list((folder / "packed").iterdir())


def test_what_is_wrong_is_said(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none\.npy: expected the images of stage `pack`"):
        Pixels(folder / "none.npy")
    (folder / "images/a/wide.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"wide\.png: cannot be decoded"):
        pack(folder, list(SIZES), None, folder / "train.npy")
    assert sorted(path.name for path in folder.iterdir()) == ["images"]
    pack(folder, list(SIZES)[1:], None, folder / "train.npy")
    with pytest.raises(InputError, match=r"train\.npy: has no image 'images/a/wide\.png'"):
        Pixels(folder / "train.npy")["images/a/wide.png"]
    with (folder / "train.npy").open("r+b") as stream:
        stream.truncate(300)
    with pytest.raises(InputError, match=r"train\.npy: expected"):
        Pixels(folder / "train.npy")
