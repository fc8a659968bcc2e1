"""Stage `split`: the lists of training, validation and test images of one data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from gta.atomic import atomic_folder
from gta.datasets.index import read_index, write_index
from gta.errors import run
from gta.params.grid import Grid
from gta.params.section import load
from gta.params.split import Split
from gta.splits import split_train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True, help="index.csv of the data set")
    parser.add_argument("--train", type=Path, required=True, help="folder for <fraction>.csv")
    parser.add_argument("--val", type=Path, required=True, help="list for choosing the weight")
    parser.add_argument("--test", type=Path, required=True, help="list for the final numbers")
    arguments = parser.parse_args()
    settings, grid = load(Split, "split"), load(Grid, "grid")
    index = read_index(arguments.index)
    lists, val = split_train(index[index["split"] == "train"], grid.fractions, settings.val, settings.seed)
    with atomic_folder(arguments.train) as folder:
        for fraction, rows in lists.items():
            write_index(rows, folder / f"{fraction}.csv")
    write_index(val, arguments.val)
    write_index(index[index["split"] == "test"], arguments.test)


if __name__ == "__main__":
    run(main)
