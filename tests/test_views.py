"""Views: torchvision's distribution, the object under the same geometry, odd files, exact repetition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import packed
from torchvision.transforms.v2 import RandomResizedCrop

from gta.batches import CentreImages, TrainImages, train_loader
from gta.errors import InputError
from gta.views import Crop, box_mask, centre_mask, centre_view, random_box, read_rgb, resized, train_view

CROP = Crop((0.2, 1.0), (3 / 4, 4 / 3), 0.5)
CPU = torch.device("cpu")


def picture(width: int = 61, height: int = 47) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(61, 47), (40, 400)])
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(0)
    ours = np.array([random_box(width, height, CROP, rng) for _ in range(4000)])
    torch.manual_seed(0)
    theirs = []
    transform = RandomResizedCrop(10, CROP.scale, CROP.ratio)
    blank = torch.zeros(3, height, width)
    for _ in range(4000):
        drawn = transform.make_params([blank])
        theirs.append(
            (drawn["left"], drawn["top"], drawn["left"] + drawn["width"], drawn["top"] + drawn["height"])
        )
    for column, (a, b) in enumerate(zip(ours.T, np.array(theirs).T, strict=True)):
        grid = np.arange(max(width, height) + 1)
        gap = np.abs((a[:, None] <= grid).mean(0) - (b[:, None] <= grid).mean(0)).max()
        assert gap < 0.043, f"corner {column}: Kolmogorov-Smirnov distance {gap}"  # p = 0.001 at 4,000


def test_a_view_is_a_function_of_its_seed() -> None:
    image = picture()
    same = [train_view(image, 32, CROP, (1, 2, 3)) for _ in range(2)]
    assert same[0].shape == (3, 32, 32)
    assert same[0].dtype == np.uint8
    assert np.array_equal(*same)
    assert not np.array_equal(same[0], train_view(image, 32, CROP, (1, 3, 3)))


@pytest.mark.parametrize("size", [8, 32, 200])
def test_what_is_not_copied_would_not_be_seen(size: int) -> None:
    """Boxes anywhere, also ones that are enlarged: as Pillow gives them from the whole image.

    It takes corners in single precision, and rounds after each side, of which it takes the cheaper first:
    hence no pure black or white here, which it would cut off on the way.
    """
    rng, pixels = np.random.default_rng(0), picture(200, 150) // 4 + 96
    for _ in range(100):
        x0, y0 = rng.uniform(0, 190), rng.uniform(0, 140)
        box = (x0, y0, rng.uniform(x0 + 1, 200), rng.uniform(y0 + 1, 150))
        whole = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box=box)
        assert np.abs(np.asarray(whole).astype(int) - np.asarray(resized(pixels, box, size))).max() <= 2


def test_flip() -> None:
    never, always = (Crop((1, 1), (61 / 47, 61 / 47), flip) for flip in (0.0, 1.0))
    straight, flipped = (train_view(picture(), 32, crop, (0,)) for crop in (never, always))
    assert np.array_equal(straight, flipped[:, :, ::-1])


def test_image_mask_and_box_are_cropped_alike() -> None:
    pixels = np.zeros((50, 80, 3), np.uint8)
    pixels[10:30, 30:60] = 255
    mask = Image.fromarray((pixels[..., 0] == 255).astype(np.uint8))
    seen = centre_view(pixels, 64, 0.8)[0] > 127
    from_mask, from_box = centre_mask(mask, 64, 0.8), box_mask((30, 10, 60, 30), 80, 50, 64, 0.8)
    assert (seen == from_mask).mean() > 0.97
    assert (from_mask == from_box).mean() > 0.97
    assert box_mask((-5, -5, 500, 500), 80, 50, 64, 1.0).all()
    assert not box_mask((0, 0, 3, 50), 80, 50, 64, 1.0).any()  # outside of the central square


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".gif", ".tiff"])
def test_every_mode_and_a_wrong_suffix_are_read(tmp_path: Path, mode: str, suffix: str) -> None:
    try:
        Image.fromarray(picture()).convert(mode).save(tmp_path / f"picture{suffix}")
    except (OSError, ValueError):
        pytest.skip(f"no {mode} in {suffix}")
    (tmp_path / f"picture{suffix}").rename(tmp_path / "picture.jpg")  # as Oxford Pets really has
    image = read_rgb(tmp_path / "picture.jpg")
    assert (image.mode, image.size) == ("RGB", (61, 47))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff\xd8\xff\xe0 cut"])
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.jpg: cannot be decoded"):
        read_rgb(tmp_path / "bad.jpg")


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(picture(300, 200)).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.jpg: cannot be decoded.*truncated"):
        read_rgb(tmp_path / "cut.jpg")


def folder_of_images(folder: Path, count: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{number}.png")
    names = [f"{number}.png" for number in range(count)]
    corners = dict.fromkeys(("x0", "y0", "x1", "y1"), float("nan"))
    return pd.DataFrame({"image": names, "label": range(count), "mask": "", **corners})


@pytest.mark.parametrize("augment", [False, True])
def test_batches_do_not_depend_on_the_number_of_workers(tmp_path: Path, augment: bool) -> None:
    from timm.data.auto_augment import rand_augment_transform

    rows = folder_of_images(tmp_path, 7)
    policy = rand_augment_transform("rand-m9-mstd0.5-inc1", {}) if augment else None
    crop = Crop((0.2, 1.0), (3 / 4, 4 / 3), 0.5, policy)
    epochs = []
    for workers in (0, 2):
        images = TrainImages(packed(tmp_path, rows), rows, 16, crop, seed=5)
        loader, sampler = train_loader(images, 3, workers, CPU)
        sampler.epoch = 4
        epochs.append(list(loader))
    assert [len(labels) for _, labels in epochs[0]] == [3, 3, 1]
    assert sorted(torch.cat([labels for _, labels in epochs[0]]).tolist()) == list(range(7))
    for (a, x), (b, y) in zip(*epochs, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(x, y)


def test_reading_leaves_torchs_generator_alone(tmp_path: Path) -> None:
    rows = folder_of_images(tmp_path, 4)
    loader, _ = train_loader(TrainImages(packed(tmp_path, rows), rows, 16, CROP, 0), 2, 0, CPU)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(before, torch.get_rng_state())


def test_unknown_objects_are_void(tmp_path: Path) -> None:
    rows = folder_of_images(tmp_path, 1)
    item = CentreImages(packed(tmp_path, rows), rows, 16, 1.0, tmp_path)[0]
    assert (item["box"] == 255).all()
    assert (item["mask"] == 255).all()
