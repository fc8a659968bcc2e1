"""A data set of the Hugging Face hub: image files and classes in parquet shards."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
"""Rows in memory at a time: a row group can be as large as the file."""
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif"}


def read(entry: Hub, root: Path) -> pd.DataFrame:
    """Rows of the index; the stored image files are written to `root`, byte by byte.

    The shards come from a mirror that has both splits, or from the hub by way of its local cache. No
    boxes or masks: the hub has no common form for them.

    Raises InputError where neither has the shards, or where they are damaged or of another form.
    """
    shards = _mirrored(entry) or _fetched(entry)
    rows = []
    for split, paths in shards.items():
        names: list[str] | None = None
        for path in paths:
            names = names or _class_names(path, entry.label_column)
        (root / split).mkdir()
        with tqdm(desc=f"{entry.repo} {split}", unit=" images", disable=None) as bar:
            for number, (content, label) in enumerate(_rows(paths, entry)):
                bar.update()
    return pd.DataFrame(rows)
