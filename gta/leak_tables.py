"""The pictures that are in training and test, or in training under two labels, of all data sets."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gta.errors import InputError
from gta.evaluated import read_table
from gta.texts import markdown

LEAKS = """\
Pairs of pictures that are, but for details, in training and in test, or in training under two labels: alike
by a perceptual hash, within leaks.bits, and by pixels, within leaks.difference. Crops and mirrored copies are
not found.
"""
NONE = "There is none."


def read_leaks(folder: Path, datasets: list[str], partial: bool = False) -> pd.DataFrame:
    """The rows of `folder/<data set>.csv` (see `gta.leaks.find_leaks`), with a first column `dataset`.

    Raises InputError where a file is missing, unless `partial` allows it.
    """
    tables = []
    for name in datasets:
        path = folder / f"{name}.csv"
        if path.exists():
            table = read_table(path, ["kind", "first", "second"])
            table.insert(0, "dataset", name)
            tables.append(table)
        elif not partial:
            raise InputError(f"{path}: no such file, though the data set is in the grid")
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def leaks_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """Column -> cell, a row a pair."""
    titles = {"dataset": "data set", "kind": "in", "first_class": "class", "second_class": "other class"}
    rows = table.rename(columns=titles).to_dict("records")
    return [{str(name): str(cell) for name, cell in row.items()} for row in rows]


def leaks_markdown(table: pd.DataFrame) -> str:
    """A page: what the table lists, and the table."""
    shown = NONE + "\n" if table.empty else markdown(leaks_rows(table))
    return f"# The same picture twice\n\n{LEAKS}\n{shown}"
