"""Small data sets in every layout, and the stage `download` run on them."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat

from gta.datasets.index import read_index
from gta.errors import run
from stages.download import main

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
    savemat(buffer, variables)  # type: ignore[arg-type]  # the stubs know paths alone
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
    return {
        "reader": reader,
        **counts,
        "mirrors": ["mirror"],
        "archives": archives,
        "skip_unreadable": 0,
    } | changes


def hub(**changes: Any) -> Entry:
    return {
        "reader": "hub", "train": 3, "test": 1, "classes": 2, "repo": "owner/cars", "revision": "main",
        "train_split": "train", "test_split": "test", "image_column": "image", "label_column": "label",
        "mirrors": ["copy"], "skip_unreadable": 0,
    } | changes  # fmt: skip


def folder(**changes: Any) -> Entry:
    return {
        "reader": "folder",
        "path": "mine",
        "test": None,
        "test_share": 30,
        "seed": 1,
        "masks": None,
        "skip_unreadable": 0,
    } | changes


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
