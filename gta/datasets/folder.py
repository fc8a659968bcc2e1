"""The user's own images: a folder for each class."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gta.datasets.annotations import record
from gta.errors import InputError
from gta.params.download import Folder
from gta.splits import share

logger = logging.getLogger(__name__)

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
"""Suffixes, in lower case, of what counts as an image."""


def read(entry: Folder) -> pd.DataFrame:
    """Rows of the index; labels follow the alphabetic order of the training classes.

    Raises InputError where a folder is missing or holds no images, a class is unknown or too small, or
    two images share a mask.
    """
    train = _images(Path(entry.path).expanduser())
    labels = {name: label for label, name in enumerate(sorted({path.parts[0] for path in train}))}
    if entry.test is None:
        held_out = _held_out(train, entry)
        listed = [("test" if path in held_out else "train", path, path, train[path]) for path in train]
    else:
        test = _images(Path(entry.test).expanduser())
        unknown = sorted({path.parts[0] for path in test} - set(labels))
        if unknown:
            raise InputError(f"{entry.test}: class {unknown[0]!r} is not among those of {entry.path}")
        parts = {"train": train, "test": test}
        listed = [
            (split, path, split / path, file) for split, part in parts.items() for path, file in part.items()
        ]
    masks = _masks(entry, [path for _, path, _, _ in listed])
    return pd.DataFrame(
        record(target.as_posix(), labels[path.parts[0]], path.parts[0], split, file, None, mask)
        for (split, path, target, file), mask in zip(listed, masks, strict=True)
    )


def code_mask(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Anything but zero is the object."""
    return (mask > 0).astype(np.uint8)


def _images(root: Path) -> dict[Path, Path]:
    """<class>/<name> -> file, in alphabetic order; other files are counted and logged."""
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder with a folder of images for each class, found none")
    files = {path.relative_to(root): path for path in sorted(root.rglob("*")) if path.is_file()}
    images = {
        path: file
        for path, file in files.items()
        if file.suffix.lower() in IMAGES
        and len(path.parts) > 1
        and not re.search(r"(^|/)\.", path.as_posix())
    }
    folders = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    empty = sorted(folders - {path.parts[0] for path in images})
    if not folders and files:
        raise InputError(
            f"{root}: expected a folder of images for each class, found {len(files)} files and no folder"
        )
    if empty or not images:
        raise InputError(
            f"{Path(root, *empty[:1])}: expected images ({', '.join(sorted(IMAGES))}), found none"
        )
    if len(files) > len(images):
        logger.warning("%s: %d files are no images of a class; left out", root, len(files) - len(images))
    return images


def _held_out(train: dict[Path, Path], entry: Folder) -> set[Path]:
    """A seeded choice of each class's images."""
    chosen: set[Path] = set()
    for label, name in enumerate(sorted({path.parts[0] for path in train})):
        paths = [path for path in train if path.parts[0] == name]
        count = share(len(paths), entry.test_share)
        if count >= len(paths):
            raise InputError(
                f"{entry.path}/{name}: expected at least one image to be left for training, got {len(paths)} "
                f"images of which {entry.test_share} % are the test"
            )
        order = np.random.default_rng([entry.seed, label]).permutation(len(paths))
        chosen |= {paths[number] for number in order[:count]}
    return chosen


def _masks(entry: Folder, paths: list[Path]) -> list[Path | None]:
    """The mask of each image, None where there is none."""
    if entry.masks is None:
        return [None] * len(paths)
    root = Path(entry.masks).expanduser()
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of masks, found none")
    files = [root / path.with_suffix(".png") for path in paths]
    masks = [file if file.is_file() else None for file in files]
    for mask, uses in Counter(filter(None, masks)).items():
        if uses > 1:
            raise InputError(f"{mask}: expected one image of this name in its class, found {uses}")
    logger.info("%s: %d of %d images have a mask", root, len(masks) - masks.count(None), len(masks))
    return masks
