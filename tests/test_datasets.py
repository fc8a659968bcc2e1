"""The stage `download`: every official layout, the hub, a user's folder, and what is wrong with them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError
from scipy.io import savemat
from serving import Answer, Site, send, serving

from gta.datasets.index import COLUMNS, read_index
from gta.datasets.licences import LICENCES
from gta.errors import InputError, run
from gta.params.download import READERS, Download, entry
from stages.download import main

ROOT = Path(__file__).resolve().parents[1]
MIRROR = ROOT.parent / "shared" / "mirror"
Files = dict[str, bytes]
Entry = dict[str, Any]


def picture(number: int, kind: str = "JPEG", size: tuple[int, int] = (20, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (number * 40 % 256, 100, 50)).save(buffer, kind)
    return buffer.getvalue()


def mask_of(values: list[int], size: tuple[int, int] = (20, 30)) -> bytes:
    """A grey image whose first row of pixels starts with `values`; the rest is their last one."""
    pixels = np.full((size[1], size[0]), values[-1], np.uint8)
    pixels[0, : len(values)] = values
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def mat(**variables: object) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, variables)
    return buffer.getvalue()


def voc(*boxes: tuple[int, int, int, int]) -> bytes:
    keys = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        "<object><bndbox>"
        + "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    return f"<annotation>{objects}</annotation>".encode()


def cells(*texts: str) -> np.ndarray[Any, Any]:
    column = np.empty((len(texts), 1), object)
    column[:, 0] = texts
    return column


# Each layout: its archives, and the rows that have to come out: (image, label, class, split, box, mask).

CUB: Files = {
    "CUB_200_2011/classes.txt": b"1 001.Albatross\n2 002.Ani\n",
    "CUB_200_2011/images.txt": b"1 001.Albatross/a.jpg\n2 001.Albatross/b.jpg\n3 002.Ani/c.jpg\n",
    "CUB_200_2011/image_class_labels.txt": b"1 1\n2 1\n3 2\n",
    "CUB_200_2011/train_test_split.txt": b"1 1\n2 0\n3 1\n",
    "CUB_200_2011/bounding_boxes.txt": b"1 2.0 3.0 10.0 20.5\n2 0.0 0.0 20.0 30.0\n3 1 1 5 6\n",
    "CUB_200_2011/images/001.Albatross/a.jpg": picture(1),
    "CUB_200_2011/images/001.Albatross/b.jpg": picture(2),
    "CUB_200_2011/images/002.Ani/c.jpg": picture(3),
    "attributes.txt": b"1 has_bill_shape::curved\n",
}
SEGMENTATIONS: Files = {
    "segmentations/001.Albatross/a.png": mask_of([0, 51, 127, 128, 255]),
    "segmentations/001.Albatross/b.png": mask_of([0]),
    "segmentations/002.Ani/c.png": mask_of([255]),
}
CUB_ROWS = [
    ("images/001.Albatross/b.jpg", 0, "001.Albatross", "test", (0, 0, 20, 30), "masks/001.Albatross/b.png"),
    (
        "images/001.Albatross/a.jpg",
        0,
        "001.Albatross",
        "train",
        (2, 3, 12, 23.5),
        "masks/001.Albatross/a.png",
    ),
    ("images/002.Ani/c.jpg", 1, "002.Ani", "train", (1, 1, 6, 7), "masks/002.Ani/c.png"),
]

CAR = [
    ("bbox_x1", "f8"),
    ("bbox_y1", "f8"),
    ("bbox_x2", "f8"),
    ("bbox_y2", "f8"),
    ("class", "f8"),
    ("fname", "O"),
]
CAR_TRAIN = np.array([[(1, 2, 20, 30, 2, "00001.jpg"), (5, 6, 7, 8, 1, "00002.jpg")]], CAR)
CARS_TEST = np.array([[(3, 4, 10, 11, 2, "00001.jpg")]], CAR)
CARS: dict[str, Files] = {
    "car_devkit.tgz": {
        "devkit/cars_meta.mat": mat(class_names=cells("AM General Hummer SUV 2000", "Acura RL").T),
        "devkit/cars_train_annos.mat": mat(annotations=CAR_TRAIN),
    },
    "cars_train.tgz": {"cars_train/00001.jpg": picture(1), "cars_train/00002.jpg": picture(2)},
    "cars_test.tgz": {"cars_test/00001.jpg": picture(3)},
    "cars_test_annos_withlabels.mat": {"": mat(annotations=CARS_TEST)},
}
CARS_ROWS = [
    ("images/cars_test/00001.jpg", 1, "Acura RL", "test", (2, 3, 10, 11), ""),
    ("images/cars_train/00001.jpg", 1, "Acura RL", "train", (0, 1, 20, 30), ""),
    ("images/cars_train/00002.jpg", 0, "AM General Hummer SUV 2000", "train", (4, 5, 7, 8), ""),
]

PLANES = "fgvc-aircraft-2013b/data"
AIRCRAFT: Files = {
    f"{PLANES}/variants.txt": b"707-320\nCessna 208\n",
    f"{PLANES}/images_variant_trainval.txt": b"1025794 707-320\n0034309 Cessna 208\n",
    f"{PLANES}/images_variant_test.txt": b"1514522 Cessna 208\n",
    f"{PLANES}/images_box.txt": b"0034309 1 1 20 10\n1025794 3 4 5 6\n1514522 2 2 19 9\n",
    f"{PLANES}/images/1025794.jpg": picture(1),
    f"{PLANES}/images/0034309.jpg": picture(2),
    f"{PLANES}/images/1514522.jpg": picture(3),
}
AIRCRAFT_ROWS = [
    ("images/1514522.jpg", 1, "Cessna 208", "test", (1, 1, 19, 9), ""),
    ("images/0034309.jpg", 1, "Cessna 208", "train", (0, 0, 20, 10), ""),
    ("images/1025794.jpg", 0, "707-320", "train", (2, 3, 5, 6), ""),
]

PUG, POODLE = "n02110958-pug", "n02113624-toy_poodle"
DOGS: dict[str, Files] = {
    "lists.tar": {
        "train_list.mat": mat(
            file_list=cells(f"{PUG}/{PUG[:9]}_1.jpg", f"{POODLE}/b_2.jpg"), labels=[[2], [1]]
        ),
        "test_list.mat": mat(file_list=cells(f"{PUG}/c_3.jpg"), labels=[[2]]),
    },
    "images.tar": {
        f"Images/{PUG}/{PUG[:9]}_1.jpg": picture(1),
        f"Images/{POODLE}/b_2.jpg": picture(2, "PNG"),
        f"Images/{PUG}/c_3.jpg": picture(3),
    },
    "annotation.tar": {
        f"Annotation/{PUG}/{PUG[:9]}_1": voc((1, 2, 10, 11), (5, 0, 20, 9)),
        f"Annotation/{POODLE}/b_2": voc((0, 0, 20, 30)),
        f"Annotation/{PUG}/c_3": voc((4, 5, 6, 7)),
    },
}
DOGS_ROWS = [
    (f"images/{PUG}/c_3.jpg", 1, "pug", "test", (4, 5, 6, 7), ""),
    (f"images/{PUG}/{PUG[:9]}_1.jpg", 1, "pug", "train", (1, 0, 20, 11), ""),
    (f"images/{POODLE}/b_2.jpg", 0, "toy_poodle", "train", (0, 0, 20, 30), ""),
]

PETS: dict[str, Files] = {
    "images.tar.gz": {
        "images/Abyssinian_1.jpg": picture(1, "GIF"),
        "images/great_pyrenees_2.jpg": picture(2),
        "images/Abyssinian_3.jpg": picture(3),
        "images/Abyssinian_3.mat": b"not listed",
    },
    "annotations.tar.gz": {
        "annotations/trainval.txt": b"Abyssinian_1 1 1 1\ngreat_pyrenees_2 6 2 4\n",
        "annotations/test.txt": b"Abyssinian_3 1 1 1\n",
        "annotations/xmls/Abyssinian_1.xml": voc((3, 4, 10, 12)),
        "annotations/trimaps/Abyssinian_1.png": mask_of([1, 3, 2]),
        "annotations/trimaps/._Abyssinian_1.png": b"a Mac was here",
        "annotations/trimaps/great_pyrenees_2.png": mask_of([2]),
        "annotations/trimaps/Abyssinian_3.png": mask_of([1]),
    },
}
PETS_ROWS = [
    ("images/Abyssinian_3.jpg", 0, "Abyssinian", "test", None, "masks/Abyssinian_3.png"),
    ("images/Abyssinian_1.jpg", 0, "Abyssinian", "train", (3, 4, 10, 12), "masks/Abyssinian_1.png"),
    ("images/great_pyrenees_2.jpg", 1, "great_pyrenees", "train", None, "masks/great_pyrenees_2.png"),
]

VOC12 = "VOCdevkit/VOC2012"


def palette(values: list[int], size: tuple[int, int] = (20, 30)) -> bytes:
    """As `mask_of`, with a palette whose colours are not its numbers."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(mask_of(values, size))) as image:
        image.putpalette([(5 * number + 7) % 256 for number in range(768)])
        assert image.mode == "P"
        image.save(buffer, "PNG")
    return buffer.getvalue()


VOC: Files = {
    f"{VOC12}/ImageSets/Segmentation/train.txt": b"2007_000032\n",
    f"{VOC12}/ImageSets/Segmentation/val.txt": b"2007_000033\n2007_000042\n",
    f"{VOC12}/JPEGImages/2007_000032.jpg": picture(1),
    f"{VOC12}/JPEGImages/2007_000033.jpg": picture(2),
    f"{VOC12}/JPEGImages/2007_000042.jpg": picture(3),
    f"{VOC12}/SegmentationClass/2007_000033.png": palette([0, 15, 15, 20, 255]),
    f"{VOC12}/SegmentationClass/2007_000042.png": palette([0]),
    f"{VOC12}/SegmentationObject/2007_000033.png": palette([0, 1, 2, 3, 255]),
    f"{VOC12}/SegmentationObject/2007_000042.png": palette([0]),
}

LAYOUTS: dict[str, tuple[dict[str, Files], list[tuple[Any, ...]]]] = {
    "cub": ({"CUB_200_2011.tgz": CUB, "segmentations.tgz": SEGMENTATIONS}, CUB_ROWS),
    "cars": (CARS, CARS_ROWS),
    "aircraft": ({"fgvc-aircraft-2013b.tar.gz": AIRCRAFT}, AIRCRAFT_ROWS),
    "dogs": (DOGS, DOGS_ROWS),
    "pets": (PETS, PETS_ROWS),
}


def pack(path: Path, files: Files) -> None:
    if set(files) == {""}:
        path.write_bytes(files[""])
        return
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def mirror_of(archives: dict[str, Files], folder: Path) -> list[Entry]:
    """Writes the archives and returns their entries."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for name, files in archives.items():
        pack(folder / name, files)
        checksum = f"sha256:{hashlib.sha256((folder / name).read_bytes()).hexdigest()}"
        entries.append({"name": name, "urls": [], "checksum": checksum, "optional": False})
    return entries


def official(reader: str, archives: list[Entry], **changes: Any) -> Entry:
    counts = {"train": 2, "test": 1, "classes": 2}
    return {"reader": reader, **counts, "mirrors": ["mirror"], "archives": archives} | changes


def hub(**changes: Any) -> Entry:
    return {
        "reader": "hub", "train": 3, "test": 1, "classes": 2, "repo": "owner/cars", "revision": "main",
        "train_split": "train", "test_split": "test", "image_column": "image", "label_column": "label",
        "mirrors": ["copy"],
    } | changes  # fmt: skip


def folder(**changes: Any) -> Entry:
    return {
        "reader": "folder",
        "path": "mine",
        "test": None,
        "test_share": 30,
        "seed": 1,
        "masks": None,
    } | changes


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def download(values: Entry) -> pd.DataFrame:
    """Runs the stage in this process, in the current folder."""
    Path("params.yaml").write_text(json.dumps({"download": {"birds": values}}))
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["--dataset", "birds", "--downloads", "downloads", "--output", "data/birds"]
        patch.setattr(sys, "argv", ["download", *arguments])
        run(main)
    assert sorted(path.name for path in Path("data").iterdir()) == ["birds"]
    assert sorted(path.name for path in Path("data/birds").iterdir()) == ["images", "index.csv", "masks"]
    return read_index(Path("data/birds/index.csv"))


def fails(values: Entry, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr that holds `fault`, a status that is not 0, and nothing in data/."""
    with pytest.raises(SystemExit) as status:
        download(values)
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert status.value.code == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert fault in lines[0]
    assert not Path("data").exists() or not list(Path("data").iterdir())


def rows(index: pd.DataFrame) -> list[tuple[Any, ...]]:
    return [
        (row["image"], row["label"], row["class"], row["split"], box(row), row["mask"])
        for row in index.to_dict("records")
    ]


def box(row: dict[Any, Any]) -> tuple[float, ...] | None:
    return None if np.isnan(row["x0"]) else tuple(row[key] for key in ("x0", "y0", "x1", "y1"))


def files_in(folder: str) -> list[str]:
    root = Path("data/birds")
    return sorted(path.relative_to(root).as_posix() for path in (root / folder).rglob("*") if path.is_file())


@pytest.mark.parametrize("reader", LAYOUTS)
def test_official_layout(reader: str) -> None:
    archives, expected = LAYOUTS[reader]
    index = download(official(reader, mirror_of(archives, Path("mirror"))))
    assert list(index.columns) == COLUMNS
    assert rows(index) == expected
    assert files_in("images") == sorted(index["image"])
    assert files_in("masks") == sorted(filter(None, index["mask"]))
    stored = [content for files in archives.values() for content in files.values()]
    assert all(Path("data/birds", image).read_bytes() in stored for image in index["image"])
    before = Path("data/birds/index.csv").read_bytes()
    assert rows(download(official(reader, mirror_of(archives, Path("mirror"))))) == expected
    assert Path("data/birds/index.csv").read_bytes() == before


def first_row(mask: str) -> list[int]:
    with Image.open(Path("data/birds", mask)) as image:
        assert (image.mode, image.format) == ("L", "PNG")
        return np.asarray(image)[0, :5].tolist()


def test_masks_in_the_index_coding() -> None:
    download(official("cub", mirror_of(LAYOUTS["cub"][0], Path("mirror"))))
    assert first_row("masks/001.Albatross/a.png") == [0, 0, 0, 1, 1]
    download(official("pets", mirror_of(LAYOUTS["pets"][0], Path("mirror"))))
    assert first_row("masks/Abyssinian_1.png") == [1, 255, 0, 0, 0]


def voc_entry(masks: str = "class", files: Files = VOC, **changes: Any) -> Entry:
    archives = mirror_of({"VOCtrainval_11-May-2012.tar": files}, Path("mirror"))
    values = {"reader": "voc", "images": 2, "masks": masks, "mirrors": ["mirror"], "archives": archives}
    return values | changes


def test_voc_has_masks_of_classes_or_of_instances() -> None:
    for kind, values in (("class", [0, 15, 15, 20, 255]), ("instance", [0, 1, 2, 3, 255])):
        index = download(voc_entry(kind))
        assert rows(index) == [
            (f"images/{name}.jpg", 0, "voc", "test", None, f"masks/{name}.png")
            for name in ("2007_000033", "2007_000042")
        ]
        assert first_row("masks/2007_000033.png") == values
        assert files_in("images") == sorted(index["image"])


def test_voc_faults(capsys: pytest.CaptureFixture[str]) -> None:
    fails(voc_entry(images=3), "download.birds: expected images 3; the data have 2", capsys)
    fails(voc_entry("classes"), "params.yaml: download.birds.masks: input should be 'class' or", capsys)
    mask = f"{VOC12}/SegmentationObject/2007_000042.png"
    without = {name: content for name, content in VOC.items() if name != mask}
    fails(voc_entry("instance", without), "2007_000042.png: expected this mask, found none", capsys)
    listed = f"{VOC12}/ImageSets/Segmentation/val.txt"
    without = {name: content for name, content in VOC.items() if name != listed}
    fails(voc_entry("class", without), f"{listed}: expected this file in the archives", capsys)
def test_the_licence_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for reader, (archives, _) in LAYOUTS.items():
        download(official(reader, mirror_of(archives, Path("mirror"))))
        assert f"birds: licence: {LICENCES[reader]}" in caplog.text
    assert "may be in ImageNet" in caplog.text
    copy_of(SHARDS)
    download(hub())
    assert "birds: licence: see the card of owner/cars" in caplog.text

    assert set(LICENCES) | {"hub"} == set(READERS)


def test_an_optional_archive_may_be_absent(caplog: pytest.LogCaptureFixture) -> None:
    archives = mirror_of({"CUB_200_2011.tgz": CUB}, Path("mirror"))
    absent = {"name": "segmentations.tgz", "urls": [], "checksum": None, "optional": True}
    index = download(official("cub", [*archives, absent]))
    assert rows(index) == [(*row[:5], "") for row in CUB_ROWS]
    assert "going on without it, it is optional: segmentations.tgz" in caplog.text


def test_a_failed_run_keeps_the_old_data(capsys: pytest.CaptureFixture[str]) -> None:
    archives = mirror_of(LAYOUTS["pets"][0], Path("mirror"))
    download(official("pets", archives))
    before = {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        download(official("pets", archives, train=3))
    assert {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()} == before
    expected = (
        "error: download.birds: expected train 3, test 1, classes 2; the data have train 2, test 1, classes 2"
    )
    assert expected in capsys.readouterr().err


def changed(reader: str, name: str, content: bytes | None) -> dict[str, Files]:
    """The reader's archives with one file changed, or removed."""
    archives = {archive: dict(files) for archive, files in LAYOUTS[reader][0].items()}
    (archive,) = [
        key for key, files in archives.items() if name in (files if files.keys() != {""} else [key])
    ]
    key = name if name in archives[archive] else ""
    if content is None:
        del archives[archive][key]
    else:
        archives[archive][key] = content
    return archives


BIRDS, PET_LIST = "CUB_200_2011", "annotations/trainval.txt"
CAR_ANNOTATIONS, CAR_LABELS = "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"
FAULTS: list[tuple[str, str, bytes | None, str]] = [
    ("cub", f"{BIRDS}/images.txt", None, "CUB_200_2011/images.txt: expected this file in the archives"),
    ("cub", f"{BIRDS}/images.txt", b"1 a.jpg\n\n2\n", "images.txt: line 3: expected <int> <str>, got '2'"),
    ("cub", f"{BIRDS}/images.txt", b"1 ../../../x.jpg\n", "../../../x.jpg: expected a path inside"),
    ("cub", f"{BIRDS}/images.txt", b"9 a.jpg\n", "bounding_boxes.txt: expected an entry for 9"),
    (
        "cub",
        f"{BIRDS}/bounding_boxes.txt",
        b"1 2 3 x 5\n",
        "bounding_boxes.txt: line 1: expected <int> <float>",
    ),
    (
        "cub",
        f"{BIRDS}/bounding_boxes.txt",
        b"1 2 3 0 5\n",
        "001.Albatross/a.jpg: expected a box with x0 < x1",
    ),
    (
        "cub",
        f"{BIRDS}/bounding_boxes.txt",
        b"1 2 3 nan 5\n",
        "001.Albatross/a.jpg: expected a box with x0 < x1",
    ),
    ("cub", f"{BIRDS}/train_test_split.txt", b"1 2\n", "is_training_image: expected an entry for 2"),
    ("cub", f"{BIRDS}/image_class_labels.txt", b"1 7\n", "classes.txt: expected an entry for 7"),
    ("cub", f"{BIRDS}/images/002.Ani/c.jpg", None, "images/002.Ani/c.jpg: listed in the annotations, but"),
    ("cub", f"{BIRDS}/images/002.Ani/c.jpg", b"", "images/002.Ani/c.jpg: listed in the annotations, but"),
    ("cub", "segmentations/002.Ani/c.png", None, "c.png: expected this mask, found none"),
    (
        "cub",
        "segmentations/002.Ani/c.png",
        mask_of([0], (30, 20)),
        "c.png: expected 20 x 30 pixels",
    ),
    ("cub", "segmentations/002.Ani/c.png", b"no image", "c.png: expected a mask and its image, got no image"),
    ("cub", "segmentations/002.Ani/c.png", mask_of([0])[:-30], "c.png: "),
    ("cars", "devkit/cars_meta.mat", mat(other=1), "cars_meta.mat: expected a variable 'class_names'"),
    ("cars", "devkit/cars_meta.mat", b"<html>", "devkit/cars_meta.mat: not a whole MATLAB file"),
    ("cars", CAR_ANNOTATIONS, mat(annotations=CAR_TRAIN)[:-90], "cars_train_annos.mat: not a whole MATLAB"),
    (
        "cars",
        CAR_LABELS,
        mat(annotations=np.array([[("1.jpg",)]], CAR[5:])),
        f"{CAR_LABELS}: annotation 1: expected box",
    ),
    (
        "cars",
        CAR_LABELS,
        mat(annotations=np.array([[(3, 4, 10, 11, 3, "1.jpg")]], CAR)),
        "from 1 to 2, as in",
    ),
    (
        "aircraft",
        f"{PLANES}/images_box.txt",
        b"0034309 1 1 20\n",
        "images_box.txt: line 1: expected <str> <int>",
    ),
    ("aircraft", f"{PLANES}/variants.txt", b"707-320\n", "variants.txt: expected an entry for 'Cessna 208'"),
    ("dogs", f"Annotation/{POODLE}/b_2", b"<annotation>", f"{POODLE}/b_2: expected a VOC annotation"),
    ("dogs", f"Annotation/{POODLE}/b_2", voc(), f"{POODLE}/b_2: expected a VOC annotation with boxes"),
    ("dogs", f"Annotation/{POODLE}/b_2", None, f"{POODLE}/b_2: expected this file"),
    ("dogs", f"Annotation/{POODLE}/b_2", voc((5, 1, 5, 9)), f"{POODLE}/b_2.jpg: expected a box with x0 < x1"),
    ("dogs", "test_list.mat", mat(file_list=cells("a", "b"), labels=[1]), "expected as many labels as files"),
    (
        "dogs",
        "test_list.mat",
        mat(file_list=cells(f"{PUG}/c_3.jpg"), labels=[[1]]),
        "expected labels 0, 1, 2",
    ),
    ("pets", PET_LIST, b"Abyssinian_1 1 1\n", "trainval.txt: line 1: expected <str> <int> <int> <int>"),
    (
        "pets",
        PET_LIST,
        b"Abyssinian_3 1 1 1\nx_2 6 2 4\n",
        "images/Abyssinian_3.jpg: expected each image once",
    ),
    (
        "pets",
        "annotations/trimaps/Abyssinian_3.png",
        mask_of([7]),
        "Abyssinian_3.png: expected values 1, 2, 3, got 7",
    ),
]


@pytest.mark.parametrize(("reader", "name", "content", "fault"), FAULTS)
def test_faulty_annotations(
    reader: str, name: str, content: bytes | None, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(official(reader, mirror_of(changed(reader, name, content), Path("mirror"))), fault, capsys)


def damage(change: Callable[[bytes], bytes]) -> Entry:
    """Pets whose images.tar.gz was changed after its checksum was taken."""
    values = official("pets", mirror_of(LAYOUTS["pets"][0], Path("mirror")))
    archive = Path("mirror/images.tar.gz")
    archive.write_bytes(change(archive.read_bytes()))
    return values


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
    "cut short": (lambda data: data[:-9], "wrong sha256: expected", "damaged or cut short"),
    "empty": (lambda _: b"", "an empty file", "an empty file"),
    "an HTML page": (lambda _: b"<html>moved</html>", "an HTML page", "an HTML page"),
    "another file": (lambda _: b"PNG", "wrong sha256: expected", "not an archive"),
    "a flipped byte": (
        lambda data: data[:99] + b"?" + data[100:],
        "wrong sha256",
        "not an archive (tar, tar.gz, zip), or",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_archives(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, with_checksum, without = DAMAGES[case]
    values = damage(change)
    fails(values, f"images.tar.gz: {with_checksum}", capsys)
    values["archives"][0]["checksum"] = None
    fails(values, f"images.tar.gz: {without}", capsys)


def test_a_missing_archive_and_a_wrong_entry(capsys: pytest.CaptureFixture[str]) -> None:
    values = official("pets", mirror_of(LAYOUTS["pets"][0], Path("mirror")))
    Path("mirror/annotations.tar.gz").unlink()
    fails(values, "annotations.tar.gz: no source gives it (mirror/annotations.tar.gz: no such file)", capsys)
    fails(values | {"tests": 3}, "params.yaml: download.birds.tests: unknown key", capsys)
    fails(
        values | {"reader": "bird"},
        "params.yaml: download.birds.reader: input should be 'cub', 'cars'",
        capsys,
    )


MISTAKES: list[tuple[str, Entry, str]] = [
    ("birds", {"train": 0}, "download.birds.train: input should be greater than or equal to 1, got 0"),
    (
        "birds",
        {"mirrors": ["ftp://x/y"]},
        "download.birds.mirrors.0: expected http://, https://, file:/// or a path",
    ),
    ("birds", {"archives": []}, "download.birds.archives: list should have at least 1 item"),
    ("Birds", {}, "download.Birds"),
]


@pytest.mark.parametrize(("name", "changes", "fault"), MISTAKES)
def test_a_mistake_in_the_section(name: str, changes: Entry, fault: str) -> None:
    archive = {"name": "a.tgz", "urls": [], "checksum": None, "optional": False}
    params = {"download": {name: official("cub", [archive]) | changes}}
    with pytest.raises(InputError, match=re.escape(f"params.yaml: {fault}")):
        entry(params, name)
    with pytest.raises(ValidationError):
        Download.model_validate(params["download"])


def test_a_mistake_in_an_archive() -> None:
    archive = {"name": "../a", "urls": ["http:/x"], "checksum": "md5:123", "optional": 0}
    with pytest.raises(InputError) as error:
        entry({"download": {"birds": official("cub", [archive])}}, "birds")
    keys = [line.split(": ")[1].rpartition(".")[2] for line in str(error.value).splitlines()]
    assert keys == ["name", "0", "checksum", "optional"]
    twice = [archive | {"name": "a", "urls": [], "checksum": None, "optional": False}] * 2
    with pytest.raises(InputError, match="archives: expected each name once, found 'a' 2 times"):
        entry({"download": {"birds": official("cub", twice)}}, "birds")


def test_a_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").write_text("a file where the folder should be")
    values = official("pets", mirror_of(LAYOUTS["pets"][0], Path("mirror")))
    with pytest.raises(SystemExit):
        download(values)
    assert capsys.readouterr().err.startswith("error: birds: [Errno ")


# A user's own folder


def own_images(root: str, **classes: int) -> None:
    for name, count in classes.items():
        Path(root, name, "more").mkdir(parents=True)
        for number in range(count):
            place = Path(root, name, *(["more"] if number == 0 else []), f"{number}.png")
            place.write_bytes(picture(number, "PNG"))


def test_own_folder_with_a_held_out_test() -> None:
    own_images("mine", cat=10, ant=4)
    Path("mine/readme.txt").write_text("left out")
    Path("mine/cat/.hidden.png").write_text("left out")
    index = download(folder())
    counts = index.groupby(["class", "label", "split"]).size().to_dict()
    assert counts == {
        ("ant", 0, "test"): 2, ("ant", 0, "train"): 2, ("cat", 1, "test"): 3, ("cat", 1, "train"): 7
    }  # fmt: skip
    assert "images/cat/more/0.png" in set(index["image"])
    assert files_in("images") == sorted(index["image"])
    assert len(list(Path("mine").rglob("*.png"))) == 15, "the user's files are copied, not moved"
    assert rows(download(folder())) == rows(index)
    assert rows(download(folder(seed=2))) != rows(index)


def test_own_photos_are_turned_upright() -> None:
    for name in ("a", "b", "c"):
        Path(f"mine/{name}").mkdir(parents=True)
        for number in range(4):
            photo = Image.new("RGB", (6, 4), (number, 0, 0))
            photo.putpixel((0, 0), (255, 255, 255))
            exif = Image.Exif()
            exif[0x0112] = 6  # to be turned by 90 degrees, as a phone held upright says
            photo.save(f"mine/{name}/{number}.png", exif=exif if number else None)
    index = download(folder(path="mine"))
    sizes = {Path(name).stem: Image.open(Path("data/birds", name)).size for name in index["image"]}
    assert sizes == {"0": (6, 4), "1": (4, 6), "2": (4, 6), "3": (4, 6)}
    with Image.open("data/birds/images/a/1.png") as turned:
        assert turned.getpixel((3, 0)) == (255, 255, 255)
        assert turned.getexif().get(0x0112, 1) == 1


def test_own_folder_with_test_and_masks() -> None:
    own_images("mine", cat=2, ant=1)
    own_images("held", cat=4)
    Path("held/cat/3.png").rename("held/cat/3.jpg")
    for number in (0, 1, 2):
        Path(f"held/cat/{'more/' if number == 0 else ''}{number}.png").unlink()
    Path("masks/cat").mkdir(parents=True)
    Path("masks/cat/1.png").write_bytes(mask_of([0, 1, 200]))
    Path("masks/cat/3.png").write_bytes(mask_of([0]))
    index = download(folder(path="mine", test="held", masks="masks"))
    assert rows(index) == [
        ("images/test/cat/3.jpg", 1, "cat", "test", None, "masks/test/cat/3.png"),
        ("images/train/ant/more/0.png", 0, "ant", "train", None, ""),
        ("images/train/cat/1.png", 1, "cat", "train", None, "masks/train/cat/1.png"),
        ("images/train/cat/more/0.png", 1, "cat", "train", None, ""),
    ]
    assert first_row("masks/train/cat/1.png") == [0, 1, 1, 1, 1]


def test_own_folder_faults(capsys: pytest.CaptureFixture[str]) -> None:
    fails(folder(), "mine: expected a folder with a folder of images for each class, found none", capsys)
    own_images("mine", cat=1, ant=3)
    fails(folder(), "mine/cat: expected at least one image to be left for training, got 1", capsys)
    own_images("held", dog=1)
    fails(folder(test="held"), "held: class 'dog' is not among those of mine", capsys)
    fails(folder(test="mine", masks="masks"), "masks: expected a folder of masks, found none", capsys)
    Path("masks/ant").mkdir(parents=True)
    Path("masks/ant/1.png").write_bytes(mask_of([1]))
    fails(folder(test="mine", masks="masks"), "masks/ant/1.png: expected one image of this name", capsys)
    Path("mine/bee").mkdir()
    fails(folder(), "mine/bee: expected images", capsys)


# The hub


def parquet(
    rows: list[tuple[bytes | None, int | None]], names: list[str] | None, column: str = "label"
) -> bytes:
    table = pa.table(
        {
            "image": pa.array([{"bytes": content, "path": None} for content, _ in rows]),
            column: pa.array([label for _, label in rows], pa.int64()),
            "other": pa.array(["x"] * len(rows)),
        }
    )
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=1)
    return buffer.getvalue()


NAMES = ["Acura RL", "Audi S4"]
SHARDS: Files = {
    "data/train-00000-of-00002.parquet": parquet([(picture(1), 1), (picture(2, "PNG"), 0)], NAMES),
    "data/train-00001-of-00002.parquet": parquet([(picture(3, "WEBP"), 1)], NAMES),
    "data/test-00000-of-00001.parquet": parquet([(picture(4), 0)], NAMES),
    "data/contrast-00000-of-00001.parquet": b"another split, not to be fetched",
}
HUB_ROWS = [
    ("images/test/00000.jpg", 0, "Acura RL", "test", None, ""),
    ("images/train/00000.jpg", 1, "Audi S4", "train", None, ""),
    ("images/train/00001.png", 0, "Acura RL", "train", None, ""),
    ("images/train/00002.webp", 1, "Audi S4", "train", None, ""),
]


def copy_of(shards: Files) -> None:
    for name, content in shards.items():
        Path("copy", name).parent.mkdir(parents=True, exist_ok=True)
        Path("copy", name).write_bytes(content)


def test_hub_from_a_mirror() -> None:
    copy_of(SHARDS)
    assert rows(download(hub())) == HUB_ROWS
    assert Path("data/birds/images/train/00001.png").read_bytes() == picture(2, "PNG")
    copy_of({name: parquet([(picture(1), 0), (picture(2), 1)][:n], None) for name, n in
             zip(SHARDS, (2, 1, 1), strict=False)})  # fmt: skip
    assert set(download(hub())["class"]) == {"0", "1"}, "without metadata the names are the numbers"


ONE = "data/test-00000-of-00001.parquet"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (SHARDS[ONE][:-9], "test-00000-of-00001.parquet: damaged or cut short"),
        (SHARDS[ONE][:8] + bytes(200) + SHARDS[ONE][208:], "test-00000-of-00001.parquet: "),
        (parquet([(picture(1), 2)], NAMES), "row 0: expected a label from 0 to 1, got 2"),
        (parquet([(picture(1), None)], NAMES), "row 0: expected an image file in 'image' and a whole number"),
        (parquet([(None, 1)], NAMES), "row 0: expected an image file in 'image'"),
        (parquet([(picture(1), 1)], NAMES, "kind"), "in 'label'; columns are image, kind, other"),
        (parquet([(b"GIF", 1)], NAMES), "row 0: expected one of JPEG, PNG"),
    ],
)
def test_hub_faults(content: bytes, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    copy_of(SHARDS | {ONE: content})
    fails(hub(), fault, capsys)


COMMIT = "9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40"


def hub_site(site: Site, shards: Files) -> None:
    """The calls of huggingface_hub for one data set."""
    api, files = "/api/datasets/owner/cars", f"/datasets/owner/cars/resolve/{COMMIT}"

    def tree() -> bytes:
        return json.dumps(
            [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in shards.items()
            ]
        ).encode()

    answer: Answer = send(json.dumps({"id": "owner/cars", "sha": COMMIT, "siblings": []}).encode())
    site.answers = {f"{api}/revision/main": [answer], f"{api}/tree/{COMMIT}": [send(tree())]}
    for name, content in shards.items():
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        site.answers[f"{files}/{name}"] = [send(content, ETag=etag, X_Repo_Commit=COMMIT)]


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def stage(values: Entry, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command."""
    Path("params.yaml").write_text(json.dumps({"download": {"birds": values}}))
    command = [sys.executable, "-m", "stages.download", "--dataset", "birds"]
    return subprocess.run(
        [*command, "--downloads", "downloads", "--output", "data/birds"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(Path("hf").resolve())} | environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_hub_by_way_of_its_cache(site: Site) -> None:
    hub_site(site, SHARDS)
    done = stage(hub(), HF_ENDPOINT=site.url)
    assert done.returncode == 0, done.stderr
    assert rows(read_index(Path("data/birds/index.csv"))) == HUB_ROWS
    assert not [path for path, _ in site.requests if "contrast" in path and "resolve" in path]
    fetched = len(site.requests)
    done = stage(hub(revision=COMMIT), HF_ENDPOINT=site.url, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert len(site.requests) == fetched, "offline means the cache alone"


def test_hub_that_does_not_answer() -> None:
    done = stage(hub(), HF_HUB_OFFLINE="1")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1, done.stderr
    assert len(errors) == 1
    assert "owner/cars at main: the hub does not give it: " in errors[0]
    assert not list(Path("data").iterdir())


def test_the_real_command_on_a_malicious_archive() -> None:
    Path("mirror").mkdir()
    with tarfile.open("mirror/CUB_200_2011.tgz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../stolen"), io.BytesIO())
    archive = {"name": "CUB_200_2011.tgz", "urls": [], "checksum": None, "optional": False}
    done = stage(official("cub", [archive]))
    assert done.returncode == 1
    assert done.stdout == ""
    (licence, error) = done.stderr.splitlines()
    assert "birds: licence: none is stated" in licence
    assert error.startswith("error: mirror/CUB_200_2011.tgz: '../../stolen' would")
    assert not list(Path("data").iterdir())


def test_digits_go_through_the_same_stage() -> None:
    index = download({"reader": "digits", "train": 2, "test": 1, "size": 48, "clutter": 2, "seed": 0})
    assert index.groupby("split").size().to_dict() == {"test": 10, "train": 20}
    assert files_in("images") == sorted(index["image"])
    assert files_in("masks") == sorted(index["mask"])


# Real photographs, where this checkout has them beside it


@pytest.mark.parametrize(
    ("name", "reader", "counts", "masks"),
    [
        ("cub50", "cub", {"train": 1500, "test": 1389, "classes": 50}, 0),
        ("pets3", "pets", {"train": 300, "test": 298, "classes": 3}, 598),
    ],
)
def test_real_mirrors(name: str, reader: str, counts: dict[str, int], masks: int) -> None:
    mirror = MIRROR / name
    if not mirror.is_dir():
        pytest.skip(f"no {mirror}")
    archives = [
        {"name": path.name, "urls": [], "checksum": None, "optional": False}
        for path in sorted(mirror.iterdir())
    ]
    index = download(official(reader, archives, mirrors=[str(mirror)], **counts))
    assert len(index) == counts["train"] + counts["test"]
    assert len(files_in("images")) == len(index)
    assert len(files_in("masks")) == (index["mask"] != "").sum() == masks
    assert index["x0"].notna().all() == (reader == "cub")
