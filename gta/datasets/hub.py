"""A data set of the Hugging Face hub: image files and classes in parquet shards."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import snapshot_download
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from gta.datasets.annotations import record
from gta.errors import InputError
from gta.params.download import Hub

logger = logging.getLogger(__name__)

BATCH = 64
"""Rows in memory at a time: a row group can be as large as its file."""
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif"}
"""File name by Pillow's name of a format."""


def read(entry: Hub, root: Path) -> pd.DataFrame:
    """Rows of the index; the stored image files are written to `root`, byte for byte.

    The shards come from a mirror that has both splits, or from the hub by way of its local cache. There
    are no boxes and masks: the hub has no common form for them.

    Raises InputError where neither has the shards, or where they are damaged or of another form.
    """
    rows = []
    for split, shards in (_mirrored(entry) or _fetched(entry)).items():
        names = _class_names(shards[0], entry)
        (root / split).mkdir()
        stored = (image for shard in shards for image in _images(shard, entry))
        for number, (place, content, label) in enumerate(
            tqdm(stored, desc=split, unit=" images", disable=None)
        ):
            path = f"{split}/{number:05d}{_suffix(content, place)}"
            if not 0 <= label < (len(names) or label + 1):
                most = f" to {len(names) - 1}" if names else ""
                raise InputError(f"{place}: expected a label from 0{most}, got {label}")
            (root / path).write_bytes(content)
            rows.append(record(path, label, names[label] if names else str(label), split, root / path))
    return pd.DataFrame(rows)


def _mirrored(entry: Hub) -> dict[str, list[Path]]:
    for mirror in entry.mirrors:
        shards = _shards(Path(mirror).expanduser(), entry)
        if all(shards.values()):
            return shards
        logger.warning("%s: %s: not all of its shards are there", mirror, entry.repo)
    return {}


def _fetched(entry: Hub) -> dict[str, list[Path]]:
    patterns = [f"data/{split}-*.parquet" for split in (entry.train_split, entry.test_split)]
    try:
        root = snapshot_download(
            entry.repo, repo_type="dataset", revision=entry.revision, allow_patterns=patterns
        )
    except Exception as error:  # the client has no common base; what it says is what the user has to know
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{entry.repo} at {entry.revision}: the hub does not give it: {reason}") from None
    shards = _shards(Path(root), entry)
    lacking = [pattern for pattern, paths in zip(patterns, shards.values(), strict=True) if not paths]
    if lacking:
        raise InputError(
            f"{entry.repo} at {entry.revision}: expected all of {lacking[0]}, found not all of them"
        )
    return shards


def _shards(root: Path, entry: Hub) -> dict[str, list[Path]]:
    """The files of each split in their order; none where one of a numbered set is missing."""
    found = {}
    for split, stored in (("train", entry.train_split), ("test", entry.test_split)):
        paths = sorted((root / "data").glob(f"{stored}-*.parquet"))
        total = re.search(r"-of-(\d+)", paths[0].name) if paths else None
        found[split] = paths if total is None or len(paths) == int(total[1]) else []
    return found


def _images(shard: Path, entry: Hub) -> Iterator[tuple[str, bytes, int]]:
    """(where it is, image file, label) of each row."""
    try:
        with pq.ParquetFile(shard) as file:
            batches = file.iter_batches(BATCH, columns=[entry.image_column, entry.label_column])
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows):
                place = f"{shard}: row {number}"
                image, label = row.get(entry.image_column), row.get(entry.label_column)
                content = image.get("bytes") if isinstance(image, dict) else None
                if not isinstance(content, bytes) or not isinstance(label, int):
                    raise InputError(
                        f"{place}: expected an image file in {entry.image_column!r} and a whole number in "
                        f"{entry.label_column!r}; columns are {', '.join(file.schema_arrow.names)}"
                    )
                yield place, content, label
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{shard}: damaged or cut short: {' '.join(str(error).split())}") from None


def _class_names(shard: Path, entry: Hub) -> list[str]:
    """The names of the labels, or nothing: they are in the metadata that the hub's own tools write."""
    try:
        metadata = pq.read_schema(shard).metadata or {}
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return list(map(str, features.get(entry.label_column, {}).get("names", [])))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{shard}: damaged or cut short: {' '.join(str(error).split())}") from None


def _suffix(content: bytes, place: str) -> str:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return SUFFIXES[str(image.format)]
    except (UnidentifiedImageError, KeyError):
        raise InputError(f"{place}: expected one of {', '.join(SUFFIXES)}, found another content") from None
