"""What `evaluate` has left of each cell of the grid, checked, and what of it is missing."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pandas.errors import EmptyDataError, ParserError

from gta.choice import Cell
from gta.errors import InputError
from gta.params.grid import Grid
from gta.tables import KEYS, MEASURES

TEXTS = dict.fromkeys(["dataset", "method", "split", "class", "model", "image"], str)
"""Columns that stay texts even where they look like numbers."""


class Missing(NamedTuple):
    """Seeds of a cell that have not been evaluated."""

    dataset: str
    fraction: int
    method: str
    seeds: tuple[int, ...]

    def named(self) -> str:
        """In words."""
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        return f"{self.dataset}, {self.fraction} %, {self.method}, {seeds}"


def read_cells(folder: Path, grid: Grid) -> pd.DataFrame:
    """The rows (seed x split) of exactly the grid's cells, in the grid's order.

    Raises InputError naming the file where a cell is missing or is not what its place says.
    """
    parts = []
    for place in product(grid.datasets, grid.fractions, grid.methods):
        path, rows = _read_cell(folder, place)
        for split, optional in (("val", True), ("test", False)):
            has = sorted(rows.loc[rows["split"] == split, "seed"])
            if has != sorted(grid.seeds) and (has or not optional):
                raise InputError(
                    f"{path}: expected the {split} rows of seeds {sorted(grid.seeds)}, found {has}"
                )
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def read_partly(folder: Path, grid: Grid) -> tuple[pd.DataFrame, list[Missing]]:
    """As `read_cells`, but of a grid of which only a part has been evaluated: what there is, and the rest.

    Raises InputError where there is nothing, and where a file is not what its place says.
    """
    parts, missing = [], []
    for place in product(grid.datasets, grid.fractions, grid.methods):
        if not _file(folder, place).exists():
            missing.append(Missing(*place, tuple(grid.seeds)))
            continue
        _, rows = _read_cell(folder, place)
        parts.append(rows[rows["seed"].isin(grid.seeds)])
        has = set(parts[-1].loc[parts[-1]["split"] == "test", "seed"])
        if lacking := tuple(seed for seed in grid.seeds if seed not in has):
            missing.append(Missing(*place, lacking))
    long = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if long.empty:
        raise InputError(f"{folder}: expected cells of the grid that have been evaluated, found none")
    return long, missing


def read_shown(folder: Path, cells: Iterable[Cell], name: str, columns: list[str]) -> pd.DataFrame:
    """The file `name` of each cell, one below the other, with the cell's data set, fraction and title
    (`method`) before its own columns. Empty where there are no cells.

    Raises InputError naming the file that is missing, is no table, or lacks one of `columns`.
    """
    parts = [pd.DataFrame(columns=[*KEYS, "method", *columns])]
    for cell in cells:
        rows = read_table(cell.folder(folder) / name, columns)
        place = pd.DataFrame(
            {"dataset": cell.dataset, "fraction": cell.fraction, "method": cell.title}, index=rows.index
        )
        parts.append(place.join(rows))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def in_order(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Rows of `read_shown`: the cells as they come, the rows of each sorted by `columns`."""
    cell = rows.groupby([*KEYS, "method"], sort=False).ngroup()
    return rows.assign(cell=cell).sort_values(["cell", *columns], kind="stable").drop(columns="cell")


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """A csv file that has `columns`, and may have more. Raises InputError where it is not that."""
    try:
        rows = pd.read_csv(path, dtype=TEXTS, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, though the cell is in the grid") from None
    except (EmptyDataError, ParserError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a table: {' '.join(str(error).split())}") from None
    if lacking := [name for name in columns if name not in rows]:
        raise InputError(
            f"{path}: expected the columns {', '.join(lacking)}, found {', '.join(rows.columns)}"
        )
    return rows


def _read_cell(folder: Path, place: tuple[str, int, str]) -> tuple[Path, pd.DataFrame]:
    path = _file(folder, place)
    rows = read_table(path, [*KEYS, "method", "seed", "split", "images", "train_images", *MEASURES])
    for found in rows[[*KEYS, "method"]].drop_duplicates().itertuples(index=False, name=None):
        if found != place:
            raise InputError(f"{path}: expected the cell {place}, found rows of {found}")
    return path, rows


def _file(folder: Path, place: tuple[str, int, str]) -> Path:
    dataset, fraction, method = place
    return folder / dataset / str(fraction) / method / "seeds.csv"
