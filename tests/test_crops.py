"""Views cut on the device are Pillow's but for rounding, and come in the same batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gta.batches import OnDevice, TrainImages, train_loader
from gta.crops import Resident, memory_to_cut
from gta.pixels import Pixels, pack
from gta.views import Crop, View, centre_box, centre_view

CPU = torch.device("cpu")
SIZES = [(90, 61), (33, 120), (64, 64), (200, 40), (75, 75)]


@pytest.fixture
def pixels(tmp_path: Path) -> Pixels:
    """Edges between middling colours, of several sizes.

    At pure ones the filter overshoots; Pillow cuts that off after each side, the cheaper of which is first.
    """
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        small = rng.integers(64, 192, (9, 9, 3), np.uint8)
        Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST).save(
            tmp_path / f"{number}.png"
        )
    pack(tmp_path, names(), None, tmp_path / "train.npy")
    return Pixels(tmp_path / "train.npy")


def names() -> list[str]:
    return [f"{number}.png" for number in range(len(SIZES))]


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("size", [16, 48, 112])
def test_batches_are_those_of_the_loader(pixels: Pixels, size: int, views: int) -> None:
    rows = pd.DataFrame({"image": names(), "label": range(len(SIZES))})
    images = TrainImages(pixels, rows, size, Crop((0.1, 1.0), (3 / 4, 4 / 3), 0.5), 3, views)
    plain, sampler = train_loader(images, 2, 0, CPU)
    cut = OnDevice(images, sampler, CPU)
    assert len(cut) == len(plain) == 3
    for sampler.epoch in range(6):
        for (expected, labels), (got, same) in zip(plain, cut, strict=True):
            assert torch.equal(labels, same)
            assert got.shape == expected.shape
            assert got.dtype == torch.uint8
            gap = (got.int() - expected.int()).abs()
            assert gap.max() <= 2
            assert (gap > 0).float().mean() < 0.15
            assert (gap > 1).float().mean() < 0.004


def test_the_device_cuts_what_half_of_it_holds_however_much_is_free(
    pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pd.DataFrame({"image": names(), "label": range(len(SIZES))})
    images = TrainImages(pixels, rows, 16, Crop((0.1, 1.0), (3 / 4, 4 / 3), 0.5), 3)
    each = 9 * 120 * 200 + 6 * 120 * 16 + 9 * 16 * 16 + 10 * 16 * (120 + 200)
    needed = 3 * sum(width * height for width, height in SIZES) + 2 * each
    assert memory_to_cut(pixels, names(), 2, 16) == needed
    monkeypatch.setattr("gta.batches.OnDevice", lambda *_: "on the device")
    for free, total, cut in ((0, 2 * needed + 2, True), (2 * needed, 2 * needed, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, told=(free, total): told)
        assert (train_loader(images, 2, 0, torch.device("cuda"))[0] == "on the device") == cut


@pytest.mark.parametrize("share", [1.0, 0.875])
def test_the_centre_too(pixels: Pixels, share: float) -> None:
    boxes = [View(centre_box(width, height, share), False) for width, height in SIZES]
    got = Resident(pixels, names(), CPU).views(range(len(SIZES)), boxes, 32)
    expected = np.stack([centre_view(pixels[name], 32, share) for name in names()])
    assert np.abs(got.numpy().astype(int) - expected).max() <= 2


def test_an_image_does_not_depend_on_those_beside_it(pixels: Pixels) -> None:
    """To rounding: what a region is filled up with, to the largest one's sides, has no weight."""
    boxes = [
        View((2.5, 3.0, width - 4.0, height / 2), number % 2 == 0)
        for number, (width, height) in enumerate(SIZES)
    ]
    resident = Resident(pixels, names(), CPU)
    together = resident.views(range(len(SIZES)), boxes, 48).int()
    for row, box in enumerate(boxes):
        alone = resident.views([row], [box], 48).int()
        assert (alone[0] - together[row]).abs().max() <= 1
        assert (alone[0] != together[row]).float().mean() < 0.001


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", [16, 224])
@pytest.mark.parametrize("deterministic", [False, True])
def test_cutting_takes_no_more_of_a_gpu_than_was_said(pixels: Pixels, size: int, deterministic: bool) -> None:
    device, rows = torch.device("cuda"), list(range(len(SIZES))) * 20
    resident = Resident(pixels, names(), device)
    boxes = [View((0, 0, width, height), False) for width, height in SIZES] * 20
    said = memory_to_cut(pixels, names(), len(rows), size) - pixels.nbytes(names())
    torch.use_deterministic_algorithms(deterministic)
    try:
        resident.views(rows, boxes, size)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        found = resident.views(rows, boxes, size)
        torch.cuda.synchronize()
    finally:
        torch.use_deterministic_algorithms(False)
    assert said / 3 < torch.cuda.max_memory_allocated() - before < said
    gap = (found.cpu().int() - Resident(pixels, names(), CPU).views(rows, boxes, size).int()).abs()
    assert gap.max() <= 2
    assert (gap > 0).float().mean() < 0.01
