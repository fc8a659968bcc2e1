"""Builds one data set's folder: fetches, extracts, reads, checks the counts, and moves it in place whole."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from gta.archives import extract
from gta.atomic import atomic_folder
from gta.datasets import aircraft, cars, cub, digits, dogs, folder, hub, pets, voc
from gta.datasets.index import write_index
from gta.datasets.licences import about
from gta.errors import InputError
from gta.fetch import fetch
from gta.params.digits import Digits
from gta.params.download import Archives, Counts, Entry, Folder, Hub, Voc
from gta.views import UNREADABLE, read_rgb

logger = logging.getLogger(__name__)

LAYOUTS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "cub": cub.read,
    "cars": cars.read,
    "aircraft": aircraft.read,
    "dogs": dogs.read,
    "pets": pets.read,
}
"""Reads the extracted archives, by `reader`."""

NO_MASKS = "none.txt"
"""Of a data set without masks, since DVC warns of an empty folder, each time it sees one."""
ORIENTATION = ExifTags.Base.Orientation

MaskCode = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

MASK_CODES: dict[str, MaskCode] = {
    "cub": cub.code_mask,
    "pets": pets.code_mask,
    "voc": voc.code_mask,
    "folder": folder.code_mask,
}
"""Turns stored masks into the index's coding, by `reader`; the others have no masks to turn."""


def build(name: str, entry: Entry, downloads: Path, output: Path) -> None:
    """Makes the folder `output`: images/, masks/ (with NO_MASKS alone where there are none) and index.csv.

    name: the data set's; downloads: folder that keeps fetched archives, under `<name>/`. If anything
    fails, `output` is left as it was.

    Raises InputError where the data cannot be had, are damaged, or are not what `entry` expects.
    """
    logger.info("%s: %s", name, about(entry))
    with atomic_folder(output) as partial:
        (partial / "images").mkdir()
        (partial / "masks").mkdir()
        if isinstance(entry, Digits):
            index = digits.build(entry, partial)
        else:
            with TemporaryDirectory(dir=partial) as root:
                listed = _read(entry, downloads / name, Path(root))
                _check_counts(name, entry, listed)
                index = _place(name, listed, entry, partial)
                _check_labels(name, entry, index)
        if not index["mask"].any():
            (partial / "masks" / NO_MASKS).write_text("This data set has no masks.\n")
        write_index(index, partial / "index.csv")
    logger.info("%s: %d images in %s", name, len(index), output)


def _read(entry: Archives | Voc | Hub | Folder, downloads: Path, root: Path) -> pd.DataFrame:
    if isinstance(entry, Hub):
        return hub.read(entry, root)
    if isinstance(entry, Folder):
        return folder.read(entry)
    for archive in entry.archives:
        mirrored = [f"{mirror.rstrip('/')}/{archive.name}" for mirror in entry.mirrors]
        try:
            path = fetch(archive.name, [*mirrored, *archive.urls], archive.checksum, downloads)
        except InputError as error:
            if not archive.optional:
                raise
            logger.warning("going on without it, it is optional: %s", error)
        else:
            extract(path, root)
    if isinstance(entry, Voc):
        return voc.read(root, entry.masks)
    return LAYOUTS[entry.reader](root)


def _check_counts(name: str, entry: Archives | Voc | Hub | Folder, index: pd.DataFrame) -> None:
    """Raises InputError where counts differ or an image is listed twice."""
    if isinstance(entry, Counts):
        expected = f"train {entry.train}, test {entry.test}, classes {entry.classes}"
        sizes = index["split"].value_counts()
        got = ", ".join(f"{split} {sizes.get(split, 0)}" for split in ("train", "test"))
        got += f", classes {index['label'].nunique()}"
        if got != expected:
            raise InputError(f"download.{name}: expected {expected}; the data have {got}")
    if isinstance(entry, Voc) and len(index) != entry.images:
        raise InputError(f"download.{name}: expected images {entry.images}; the data have {len(index)}")
    twice = index["image"][index["image"].duplicated()]
    if len(twice):
        raise InputError(f"{name}: {twice.iloc[0]}: expected each image once, found it twice")


def _check_labels(name: str, entry: Archives | Voc | Hub | Folder, index: pd.DataFrame) -> None:
    """Raises InputError where labels and names do not pair up, or there is nothing to tell apart."""
    labels = sorted(index[["label", "class"]].drop_duplicates()["label"])
    if labels != list(range(len(labels))):
        raise InputError(f"{name}: expected labels 0, 1, 2, ... with one class name each, got {labels[:5]}")
    if len(labels) == 1 and not isinstance(entry, Voc):
        raise InputError(f"{name}: expected two classes or more, got one, {index['class'].iloc[0]!r}")


def _place(
    name: str, index: pd.DataFrame, entry: Archives | Voc | Hub | Folder, output: Path
) -> pd.DataFrame:
    """Moves the images into `output` (a user's own are copied upright), and writes the masks.

    Every image is decoded once. Returns the rows of those that can be: the others are left out, as many as
    the entry allows.
    """
    bring = _copy_upright if isinstance(entry, Folder) else shutil.move
    unreadable: list[str] = []
    for row in tqdm(index.to_dict("records"), desc="images", unit=" images", disable=None):
        source, target = row["image_file"], output / row["image"]
        if not source.is_file() or source.stat().st_size == 0:
            raise InputError(f"{row['image']}: listed in the annotations, but the file is missing or empty")
        target.parent.mkdir(parents=True, exist_ok=True)
        bring(source, target)
        try:
            size = read_rgb(target).size
        except InputError as error:
            unreadable.append(row["image"])
            reason = str(error).removeprefix(f"{target}: ")
            if len(unreadable) > entry.skip_unreadable:
                raise InputError(
                    f"download.{name}.skip_unreadable: expected at most {entry.skip_unreadable} unreadable "
                    f"images, found {len(unreadable)}: {', '.join(unreadable)}: {reason}"
                ) from None
            logger.warning("%s: left out: %s", row["image"], reason)
            target.unlink()
        else:
            _check_box(row, *size)
            if row["mask"]:
                _write_mask(row["mask_file"], target, output / row["mask"], MASK_CODES[entry.reader])
    if unreadable:
        logger.warning("%s: %d images are left out: %s", name, len(unreadable), ", ".join(unreadable))
    return index[~index["image"].isin(unreadable)]


def _check_box(row: dict[Any, Any], width: int, height: int) -> None:
    """Raises InputError where the box is beside its image. Official ones reach over the edge by a little."""
    x0, y0, x1, y1 = (row[key] for key in ("x0", "y0", "x1", "y1"))
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        got = f"{x0:g}, {y0:g}, {x1:g}, {y1:g}"
        raise InputError(f"{row['image']}: expected a box inside its {width} x {height} pixels, got {got}")


def _copy_upright(source: Path, target: Path) -> None:
    """Copies an image; one that its camera marked as turned (EXIF) is turned, as every viewer shows it."""
    try:
        with Image.open(source) as image:
            if image.getexif().get(ORIENTATION, 1) > 1:
                ImageOps.exif_transpose(image).save(target, format=image.format, quality=95)
                return
    except UNREADABLE:
        pass  # who reads it says so, with its name
    shutil.copyfile(source, target)


def _write_mask(mask_file: Path, image_file: Path, target: Path, code: MaskCode) -> None:
    """Writes the mask as one 8-bit channel in the index's coding."""
    try:
        with Image.open(image_file) as image, Image.open(mask_file) as mask:
            if mask.size != image.size:
                expected = f"{image.width} x {image.height} pixels, the size of its image"
                raise InputError(f"{mask_file.name}: expected {expected}, got {mask.width} x {mask.height}")
            # numbers of a palette are what was drawn; its colours are decoration
            values = np.asarray(mask if mask.mode in ("L", "P") else mask.convert("L"))
            coded = Image.fromarray(code(values))
    except FileNotFoundError:
        raise InputError(f"{mask_file.name}: expected this mask, found none") from None
    except UnidentifiedImageError as error:
        raise InputError(f"{mask_file.name}: expected a mask and its image, got no image: {error}") from None
    except UNREADABLE as error:
        raise InputError(f"{mask_file.name}: {' '.join(str(error).split())}") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    coded.save(target)
