"""Segmentation of sets of images: objects and protocols by hand and against loops, and the stage."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from repository import ROOT
from ruamel.yaml import YAML
from test_tables import grid
from tiny import source_file

import stages.segment
from gta.attention import record_logits
from gta.datasets.index import write_index
from gta.errors import InputError
from gta.models import load, normalise
from gta.params.section import read_params
from gta.protocols import ALL_VOID, NO_OBJECT, PROTOCOLS, summarise
from gta.segmentation import jaccard, kept
from gta.segments import draw, largest, regions_of

Loops = dict[int, list[float]]


def by_loops(attention: np.ndarray, mask: np.ndarray, share: float) -> Loops:
    """Object -> the Jaccard index of each map (maps, rows, columns), pixel by pixel; nothing without one."""
    maps, rows, columns = attention.shape
    height, width = mask.shape
    found: Loops = {}
    for value in sorted(set(mask.ravel().tolist()) - {0, 255}):
        for each in attention.reshape(maps, -1).astype(float):
            order = sorted(range(rows * columns), key=lambda patch: -each[patch])
            chosen: set[int] = set()
            while each[list(chosen)].sum() < share * each.sum():
                chosen.add(order[len(chosen)])
            both = either = 0
            for y in range(height):
                for x in range(width):
                    if mask[y, x] != 255:
                        inside = (y * rows // height) * columns + x * columns // width in chosen
                        both += inside and mask[y, x] == value
                        either += inside or mask[y, x] == value
            found.setdefault(value, []).append(both / either)
    return found


@pytest.mark.parametrize("case", range(50))
def test_every_object_against_loops_over_pixels(case: int) -> None:
    rng = np.random.default_rng(case)
    rows, columns = int(rng.integers(2, 6)), int(rng.integers(2, 7))
    size = (rows * int(rng.integers(1, 5)), columns * int(rng.integers(1, 5)))
    mask = rng.choice([0, 1, 2, 7, 255], size, p=[0.4, 0.2, 0.15, 0.05, 0.2]).astype(np.uint8)
    attention = rng.dirichlet(np.full(rows * columns, 0.5), 3).reshape(3, rows, columns)
    share = float(rng.uniform(0.2, 0.95))
    patches = kept(torch.tensor(attention)[None], share)
    regions = regions_of(torch.tensor(mask))
    got = {value: jaccard(patches, region[None])[0].tolist() for value, region in regions.items()}
    expected = by_loops(attention, mask, share)
    assert got.keys() == expected.keys()
    for value, scores in expected.items():
        assert got[value] == pytest.approx(scores, abs=1e-9)


def test_objects_by_hand() -> None:
    mask = torch.tensor([[0, 3, 3], [1, 255, 3]], dtype=torch.uint8)
    regions = regions_of(mask)
    assert {value: region.tolist() for value, region in regions.items()} == {
        1: [[0, 0, 0], [1, 255, 0]],
        3: [[0, 1, 1], [0, 255, 1]],
    }
    assert largest(regions) == 3
    empty = regions_of(torch.tensor([[0, 255]], dtype=torch.uint8))
    assert {value: region.tolist() for value, region in empty.items()} == {NO_OBJECT: [[0, 255]]}
    void = regions_of(torch.tensor([[255, 255]], dtype=torch.uint8))
    assert {value: region.tolist() for value, region in void.items()} == {ALL_VOID: [[255, 255]]}


def rows_of(*rows: tuple[str, int, int, float, float, float]) -> pd.DataFrame:
    names = ["image", "half", "object", "jaccard", "jaccard_head0", "jaccard_head1"]
    return pd.DataFrame(rows, columns=names)


def test_protocols_by_hand() -> None:
    nan = math.nan
    rows = rows_of(
        ("a", 0, 1, 0.5, 0.8, 0.2),
        ("a", 0, 2, 0.3, 0.4, 0.6),
        ("b", 1, 1, 0.1, 0.0, 1.0),
        ("c", 0, NO_OBJECT, nan, nan, nan),
        ("d", 1, ALL_VOID, nan, nan, nan),
    )
    found = summarise(rows)
    counts = {"images": 4, "empty_images": 1, "void_images": 1, "objects": 3}
    assert {name: found[name] for name in counts} == counts
    assert found["best_head"] == pytest.approx(((0.8 + 0.6) / 2 + 1.0) / 2)  # objects, then images
    # image a by head 1, the best on b; b by head 0, the best on a
    assert found["chosen_head"] == pytest.approx(((0.2 + 0.6) / 2 + 0.0) / 2)
    assert found["mean_heads"] == pytest.approx(((0.5 + 0.3) / 2 + 0.1) / 2)


def test_what_cannot_be_scored_is_counted() -> None:
    nothing = summarise(rows_of(("a", 0, NO_OBJECT, *[math.nan] * 3), ("b", 1, ALL_VOID, *[math.nan] * 3)))
    assert (nothing["images"], nothing["empty_images"], nothing["void_images"], nothing["objects"]) == (
        2,
        1,
        1,
        0,
    )
    assert all(math.isnan(nothing[name]) for name in PROTOCOLS)
    one = summarise(rows_of(("a", 0, 1, 0.5, 0.8, 0.2)))
    assert (one["best_head"], one["mean_heads"]) == (0.8, 0.5)
    assert math.isnan(one["chosen_head"])  # there is no other image to choose by


def index_of(count: int) -> pd.DataFrame:
    images = [f"images/{number}.png" for number in range(count)]
    masks = [f"masks/{number}.png" for number in range(count)]
    index = pd.DataFrame({"image": images, "mask": masks, "label": 0, "class": "a", "split": "test"})
    return index.assign(x0=math.nan, y0=math.nan, x1=math.nan, y1=math.nan)


def test_images_are_drawn_by_a_seed() -> None:
    index = index_of(20)
    index.loc[:4, "split"] = "train"
    index.loc[5:6, "mask"] = ""
    drawn = draw(index, 6, 0)
    assert len(drawn) == 6
    assert set(drawn["image"]) <= set(index["image"][7:])
    assert drawn["half"].tolist() == [0, 1, 0, 1, 0, 1]
    assert draw(index, 100, 0)["image"].tolist()[:6] == drawn["image"].tolist()
    assert len(draw(index, 100, 0)) == 13
    shuffled = index.sample(frac=1, random_state=1)
    assert draw(shuffled, 6, 0)["image"].tolist() == drawn["image"].tolist()
    assert draw(index, 6, 1)["image"].tolist() != drawn["image"].tolist()
    with pytest.raises(InputError, match="expected test images with masks, found none"):
        draw(index[:7], 6, 0)


MASKS: list[list[int]] = [[0, 1, 255], [2, 0, 5], [0, 0, 255], [255, 255, 255], [9, 9, 0]]
"""Values in three vertical stripes."""


def objects_in(folder: Path) -> Path:
    """A set of images of 48 x 36 pixels with masks, one without object and one all void."""
    rng = np.random.default_rng(3)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number, stripes in enumerate(MASKS):
        pixels = rng.integers(0, 256, (36, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{number}.png")
        mask = np.repeat(np.array(stripes, np.uint8), 16)[None].repeat(36, 0)
        Image.fromarray(mask).save(folder / f"masks/{number}.png")
    write_index(index_of(len(MASKS)), folder / "index.csv")
    return folder


def run_stage(folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    """The stage on `objects_in(folder)` at 64 pixels; returns what it wrote."""
    if not (folder / "objects").exists():
        objects_in(folder / "objects")
    section = read_params(ROOT / "params.yaml")["segment"]
    section |= {"on": ["voc"], "image_size": 64, "batch_size": 2, "pictures": 2, **changes}
    YAML(typ="safe", pure=True).dump(
        {"segment": section, "grid": grid(seeds=2).model_dump()}, folder / "params.yaml"
    )
    monkeypatch.chdir(folder)
    arguments = ["--objects", "objects", "--weights", str(weights), "--output", f"out/{weights.stem}"]
    monkeypatch.setattr("sys.argv", ["segment", *arguments])
    stages.segment.main()
    return folder / "out" / weights.stem


def test_the_source_at_another_resolution_against_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the image to the numbers of the table, empty and void masks among them."""
    weights = source_file(tmp_path)  # built for 32 pixels, 2 x 2 patches
    written = run_stage(tmp_path, weights, monkeypatch)
    assert sorted(path.name for path in written.iterdir()) == [
        *("patches.npz", "segments.csv", "summary.csv", "views.npz")
    ]
    segments = pd.read_csv(written / "segments.csv")
    assert sorted(zip(segments["image"], segments["object"], strict=True)) == [
        *(("images/0.png", 1), ("images/1.png", 2), ("images/1.png", 5)),
        *(("images/2.png", NO_OBJECT), ("images/3.png", ALL_VOID), ("images/4.png", 9)),
    ]
    model, card = load(weights)
    model.set_input_size(img_size=(64, 64))  # type: ignore[operator]  # timm is Any to mypy
    best, together = {}, {}
    for number in (0, 1, 4):
        place = tmp_path / "objects"
        view = (
            Image.open(place / f"images/{number}.png")
            .convert("RGB")
            .resize((64, 64), Image.Resampling.BICUBIC)
        )
        mask = Image.open(place / f"masks/{number}.png").resize((64, 64), Image.Resampling.NEAREST)
        image = torch.tensor(np.asarray(view).transpose(2, 0, 1))[None]
        with record_logits(model, [11]) as recorder, torch.no_grad():
            model(normalise(image, card))
        heads = recorder.rows[11][0].softmax(-1)[:, 1:].view(3, 4, 4)
        maps = torch.cat([heads.mean(0, keepdim=True), heads]).numpy()
        scores = by_loops(maps, np.asarray(mask), 0.6)
        for value, (mean, *each) in scores.items():
            row = segments[(segments["image"] == f"images/{number}.png") & (segments["object"] == value)]
            columns = ["jaccard", "jaccard_head0", "jaccard_head1", "jaccard_head2"]
            assert row[columns].to_numpy()[0].tolist() == pytest.approx([mean, *each], abs=1e-5)
        best[number] = np.mean([max(each) for _, *each in scores.values()])
        together[number] = np.mean([mean for mean, *_ in scores.values()])
    (summary,) = pd.read_csv(written / "summary.csv").to_dict("records")
    counts = {"model": "source", "images": 5, "empty_images": 1, "void_images": 1, "objects": 4}
    assert {name: summary[name] for name in counts} == counts
    assert summary["best_head"] == pytest.approx(np.mean(list(best.values())), abs=1e-5)
    assert summary["mean_heads"] == pytest.approx(np.mean(list(together.values())), abs=1e-5)
    with np.load(written / "views.npz") as views, np.load(written / "patches.npz") as patches:
        assert views["image"].shape == (2, 3, 64, 64)
        assert views["mask"].shape == (2, 64, 64)
        assert all(set(np.unique(mask)) - {0, 255} for mask in views["mask"])  # the two have objects
        assert patches["source"].shape == (2, 4, 4)


def test_a_cells_seeds_see_the_same_images_whatever_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cell").mkdir()
    for seed in (0, 1):
        source_file(tmp_path, num_classes=seed).rename(tmp_path / f"cell/seed{seed}.safetensors")
    written = run_stage(tmp_path, tmp_path / "cell", monkeypatch)
    assert sorted(path.name for path in written.iterdir()) == ["patches.npz", "segments.csv", "summary.csv"]
    first = pd.read_csv(written / "segments.csv")
    assert first.groupby("model").size().to_dict() == {0: 6, 1: 6}
    assert pd.read_csv(written / "summary.csv")["model"].tolist() == [0, 1]
    again = pd.read_csv(run_stage(tmp_path, tmp_path / "cell", monkeypatch, batch_size=5) / "segments.csv")
    pd.testing.assert_frame_equal(first, again, atol=1e-5)


def test_a_set_without_masks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(index_of(2).assign(mask=""), objects_in(tmp_path / "objects") / "index.csv")
    with pytest.raises(
        InputError, match=r"objects/index\.csv: expected test images with masks, found none, but"
    ):
        run_stage(tmp_path, source_file(tmp_path), monkeypatch)
    assert not (tmp_path / "out").exists()
