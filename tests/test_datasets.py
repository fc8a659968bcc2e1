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
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import (
    CAR,
    CAR_TRAIN,
    CUB,
    CUB_ROWS,
    LAYOUTS,
    PLANES,
    POODLE,
    PUG,
    Entry,
    Files,
    cells,
    changed,
    download,
    fails,
    files_in,
    folder,
    hub,
    mask_of,
    mat,
    mirror_of,
    official,
    picture,
    rows,
    voc,
)
from PIL import Image
from pydantic import ValidationError
from serving import Answer, Site, send, serving

from gta.datasets.index import COLUMNS, read_index
from gta.datasets.licences import LICENCES
from gta.errors import InputError
from gta.params.download import READERS, Download, entry

ROOT = Path(__file__).resolve().parents[1]
MIRROR = ROOT.parent / "shared" / "mirror"
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


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("reader", LAYOUTS)
def test_official_layout(reader: str) -> None:
    archives, expected = LAYOUTS[reader]
    index = download(official(reader, mirror_of(archives, Path("mirror"))))
    assert list(index.columns) == COLUMNS
    assert rows(index) == expected
    assert files_in("images") == sorted(index["image"])
    assert files_in("masks") == (sorted(filter(None, index["mask"])) or ["masks/none.txt"])
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
    values = {"reader": "voc", "images": 2, "masks": masks, "skip_unreadable": 0, "mirrors": ["mirror"]}
    return values | {"archives": archives} | changes


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
    said = "error: data: File exists; remove what is in its place, then `make repro` goes on"
    assert capsys.readouterr().err.strip() == said


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
    Path("mine").mkdir()
    Path("mine/1.png").write_bytes(mask_of([1]))
    fails(folder(), "mine: expected a folder of images for each class, found 1 files and no folder", capsys)
    own_images("one", cat=3)
    fails(folder(path="one"), "expected two classes or more, got one, 'cat'", capsys)
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
    assert f"birds: licence: {LICENCES['cub']}" in licence
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
    assert (index["mask"] != "").sum() == masks
    assert len(files_in("masks")) == (masks or 1)
    assert index["x0"].notna().all() == (reader == "cub")
