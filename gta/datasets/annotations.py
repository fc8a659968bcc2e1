"""Reads annotation files of the official releases; a fault names the file, the line and what was expected."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from gta.errors import InputError

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""


def record(
    image: str,
    label: int,
    name: str,
    split: str,
    image_file: Path,
    box: Box | None = None,
    mask_file: Path | None = None,
) -> dict[str, Any]:
    """A row of the index (see gta.datasets.index), with two columns more: where image and mask lie now.

    image: path under images/, with forward slashes; label: from 0. The mask goes to the same path under
    masks/, as png. Raises InputError where the path leaves the folder or the box is empty.
    """
    path = PurePosixPath(image)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{image}: expected a path inside the folder of images")
    if box is not None and not (all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]):
        raise InputError(f"{image}: expected a box with x0 < x1 and y0 < y1, got {box}")
    corners = dict(zip(("x0", "y0", "x1", "y1"), box or (math.nan,) * 4, strict=True))
    mask = "" if mask_file is None else f"masks/{path.with_suffix('.png')}"
    return {
        "image": f"images/{path}",
        "label": label,
        "class": name,
        "split": split,
        **corners,
        "mask": mask,
    } | {
        "image_file": image_file,
        "mask_file": mask_file,
    }


def table(root: Path, name: str, *kinds: Callable[[str], Any]) -> Iterator[tuple[Any, ...]]:
    """The lines of the text file `root/name`, a field a kind; the last field may hold spaces.

    Raises InputError where the file is missing or a line has other fields.
    """
    for number, line in enumerate(_bytes(root, name).decode("utf-8", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.strip().split(maxsplit=len(kinds) - 1)
        try:
            yield tuple(kind(field) for kind, field in zip(kinds, fields, strict=True))
        except ValueError:
            expected = " ".join(f"<{kind.__name__}>" for kind in kinds)
            raise InputError(f"{name}: line {number}: expected {expected}, got {line!r}") from None


def find(values: Mapping[KeyT, ValueT], key: KeyT, name: str) -> ValueT:
    """values[key]. Raises InputError naming the file `name` where it lacks the key."""
    if key not in values:
        raise InputError(f"{name}: expected an entry for {key!r}, found none")
    return values[key]


def matlab(root: Path, name: str, *variables: str) -> list[Any]:
    """Variables of the MATLAB file `root/name`, without their dimensions of 1.

    Raises InputError where the file is missing, damaged, or lacks one of them.
    """
    _bytes(root, name)
    try:
        content = loadmat(root / name, squeeze_me=True)
    except (ValueError, TypeError, OSError, EOFError, zlib.error, NotImplementedError, MatReadError) as error:
        raise InputError(f"{name}: not a whole MATLAB file: {error}") from None
    missing = [variable for variable in variables if variable not in content]
    if missing:
        raise InputError(f"{name}: expected a variable {missing[0]!r}, found none")
    return [content[variable] for variable in variables]


def voc_box(root: Path, name: str) -> Box:
    """The smallest box around all objects of a PASCAL VOC annotation.

    VOC counts pixels from 1, inclusive; the files at hand start at 0 as often as at 1 and end at the
    image's width. So the numbers are taken as edges (ours), which is at most a pixel off.

    Raises InputError where the file is missing, no XML, or has no box.
    """
    try:
        boxes = ET.fromstring(_bytes(root, name)).findall("object/bndbox")
        corners = [
            [float(str(box.findtext(key))) for key in ("xmin", "ymin", "xmax", "ymax")] for box in boxes
        ]
        x0, y0, x1, y1 = zip(*corners, strict=True)
    except (ET.ParseError, ValueError) as error:
        raise InputError(f"{name}: expected a VOC annotation with boxes of four numbers: {error}") from None
    return min(x0), min(y0), max(x1), max(y1)


def _bytes(root: Path, name: str) -> bytes:
    try:
        return (root / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise InputError(f"{name}: expected this file in the archives, found none") from None
