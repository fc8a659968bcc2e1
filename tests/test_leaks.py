"""Copies across the splits are found, other pictures are not; and no test image reaches a trained weight."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from repository import Repository, small_params

import stages.leaks
from gta import leaks
from gta.datasets.index import read_index, write_index
from gta.errors import InputError
from gta.leak_tables import NONE, leaks_markdown, read_leaks
from gta.leaks import find_leaks
from gta.params.leaks import Leaks

SETTINGS = Leaks(bits=10, difference=20.0)


def scene(seed: int) -> Image.Image:
    """Coloured blobs, like no other seed's."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((160, 120), 3)


def data_set(folder: Path, rows: list[tuple[Image.Image, int, str]]) -> Path:
    """A prepared data set of (picture, label, split)."""
    (folder / "images").mkdir(parents=True)
    records = []
    for number, (image, label, split) in enumerate(rows):
        image.save(folder / f"images/{number}.jpg", quality=90)
        records.append(
            {"image": f"images/{number}.jpg", "label": label, "class": f"c{label}", "split": split}
        )
    index = pd.DataFrame(records).assign(x0=np.nan, y0=np.nan, x1=np.nan, y1=np.nan, mask="")
    write_index(index, folder / "index.csv")
    return folder


def watermarked(image: Image.Image) -> Image.Image:
    """Smaller, paler, with a bar across."""
    copy = image.resize((130, 98), 2).point(lambda value: value * 0.9 + 12)
    copy.paste((250, 250, 250), (70, 80, 120, 90))
    return copy


def pairs(found: pd.DataFrame) -> list[tuple[str, str, str]]:
    return [tuple(row) for row in found[["kind", "first", "second"]].itertuples(index=False)]


def test_copies_are_found_where_they_must_not_be(tmp_path: Path) -> None:
    rows = [(scene(seed), seed % 3, "train" if seed < 6 else "test") for seed in range(12)]
    rows += [
        (watermarked(scene(2)), 2, "test"),  # 12: training's picture 2
        (scene(7).rotate(0.5), 0, "train"),  # 13: the test's picture 7, under another label too
        (watermarked(scene(4)), 0, "train"),  # 14: training's picture 4, whose label is 1
        (watermarked(scene(5)), 2, "train"),  # 15: twice in training under one label: no leak
        (watermarked(scene(9)), 1, "test"),  # 16: twice in the test: none either
    ]
    found = find_leaks(data_set(tmp_path, rows), SETTINGS)
    assert set(pairs(found)) == {
        ("train and test", "images/2.jpg", "images/12.jpg"),
        ("train and test", "images/13.jpg", "images/7.jpg"),
        ("two labels", "images/14.jpg", "images/4.jpg"),
    }
    assert found["difference"].is_monotonic_increasing
    assert (found["bits"] <= 10).all()
    row = found.set_index("first").loc["images/13.jpg"]
    assert (row["first_class"], row["second_class"]) == ("c0", "c1")


def test_pixels_decide_where_hashes_agree(tmp_path: Path) -> None:
    """The hash sees no colour: a red and a blue picture of one brightness pattern are two pictures."""
    grey = np.asarray(scene(0).convert("L"), np.float64) / 255
    red = Image.fromarray((np.stack([grey, 0 * grey, 0 * grey], 2) * 255).astype(np.uint8))
    blue = Image.fromarray((np.stack([0 * grey, 0 * grey, grey], 2) * 255).astype(np.uint8))
    data = data_set(tmp_path, [(red, 0, "train"), (blue, 0, "test")])
    assert pairs(find_leaks(data, SETTINGS)) == []
    assert len(find_leaks(data, Leaks(bits=10, difference=255.0))) == 1


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(scene(seed % 7), 0, "train" if seed < 7 else "test") for seed in range(14)]
    data = data_set(tmp_path, rows)
    whole = find_leaks(data, SETTINGS)
    monkeypatch.setattr(leaks, "BLOCK", 3)
    pd.testing.assert_frame_equal(find_leaks(data, SETTINGS), whole)
    assert len(whole) == 7


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    data = data_set(tmp_path, [(scene(0), 0, "train")])
    (data / "images/0.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"images/0\.jpg: cannot be decoded as an image"):
        find_leaks(data, SETTINGS)


def test_the_stage_and_the_table_of_all_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_set(tmp_path / "data/a", [(scene(1), 0, "train"), (scene(1), 0, "test")])
    data_set(tmp_path / "data/b", [(scene(1), 0, "train"), (scene(2), 0, "test")])
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("leaks: {bits: 10, difference: 20.0}\n")
    for name in ("a", "b"):
        arguments = ["leaks", "--data", f"data/{name}", "--output", f"runs/leaks/{name}.csv"]
        monkeypatch.setattr(sys, "argv", arguments)
        stages.leaks.main()
    table = read_leaks(Path("runs/leaks"), ["b", "a"])
    assert table["dataset"].tolist() == ["a"]
    row = [cell.strip() for cell in leaks_markdown(table).splitlines()[-1].split("|")[1:5]]
    assert row == ["a", "train and test", "images/0.jpg", "images/1.jpg"]
    for none in (read_leaks(Path("runs/leaks"), ["b"]), read_leaks(Path("gone"), ["b"], partial=True)):
        assert leaks_markdown(none).endswith(f"\n{NONE}\n")
    with pytest.raises(InputError, match=r"gone/b\.csv: no such file, though the data set is in the grid"):
        read_leaks(Path("gone"), ["b"])
    Path("runs/leaks/b.csv").write_text("kind\n")
    with pytest.raises(InputError, match=r"leaks/b\.csv: expected the columns first, second, found kind"):
        read_leaks(Path("runs/leaks"), ["b"])


def test_no_test_image_or_label_reaches_a_weight(tmp_path: Path) -> None:
    """Every test picture becomes another, every test label too: trained weights keep their bytes."""
    values = small_params()
    values["grid"] |= {"fractions": [100], "methods": ["gta-0.1"], "seeds": [0]}
    repository = Repository(tmp_path, values)
    cell = "finetune@digits-100-gta-0.1"
    repository.repro(cell)
    weights = tmp_path / "runs/finetune/digits/100/gta-0.1/seed0.safetensors"
    before = weights.read_bytes()

    index = read_index(tmp_path / "data/digits/index.csv")
    test = index["split"] == "test"
    assert test.sum() == 30
    for name in index["image"][test]:
        size = Image.open(tmp_path / "data/digits" / name).size
        Image.new("RGB", size, (9, 8, 7)).save(tmp_path / "data/digits" / name)
    index.loc[test, "label"] = 9 - index.loc[test, "label"]
    write_index(index, tmp_path / "data/digits/index.csv")
    repository.run("dvc", "commit", "--force", "download@digits")
    assert repository.repro(cell) == ["split@digits", "pack@digits"]
    assert "up to date" in repository.run("dvc", "status", cell)  # it cannot even see them
    repository.run("rm", "-r", "runs/state", "runs/finetune")
    assert repository.repro("--force", "--single-item", "--no-run-cache", cell) == [cell]
    assert hashlib.sha256(weights.read_bytes()).digest() == hashlib.sha256(before).digest()
