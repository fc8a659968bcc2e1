"""The user's own images: a folder for each class."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from gta.datasets.annotations import record
from gta.errors import InputError
from gta.params.download import Folder
from gta.splits import share

logger = logging.getLogger(__name__)


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
        listed = [(split, path, split / path, file) for split, part in parts.items() for path, file in part.items()]
    masks = _masks(entry, [path for _, path, _, _ in listed])
    rows = [
        record(target.as_posix(), labels[path.parts[0]], path.parts[0], split, file, None, masks.get(path))
        for split, path, target, file in listed
    ]
    return pd.DataFrame(rows)


def code_mask(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Anything but zero is the object."""
    return (mask != 0).astype(np.uint8)


def _images(root: Path) -> dict[Path, Path]:
    """<class>/<name> -> file, in alphabetic order; what Pillow has no reader for is counted and logged."""
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder with a folder of images for each class, found none")
    known = set(Image.registered_extensions())
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    images = {
        path.relative_to(root): path
        for path in files
        if path.suffix.lower() in known and path.parent != root and not path.name.startswith(".")
    }
    empty = {path.name for path in root.iterdir() if path.is_dir()} - {path.parts[0] for path in images}
    if empty or not images:
        raise InputError(f"{root / min(empty, default='')}: expected images, found none")
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


def _masks(entry: Folder, paths: list[Path]) -> dict[Path, Path]:
    if entry.masks is None:
        return {}
    root = Path(entry.masks).expanduser()
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of masks, found none")
    files = {path: root / path.with_suffix(".png") for path in paths}
    found = {path: file for path, file in files.items() if file.is_file()}
    ...
    return found
