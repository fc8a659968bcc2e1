"""Stage `pack`: the decoded images of one data set, those of training and those of the test apart."""

from __future__ import annotations

import argparse
from pathlib import Path

from gta.datasets.index import read_index
from gta.errors import run
from gta.params.pack import Pack
from gta.params.section import load
from gta.pixels import pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and index.csv")
    parser.add_argument("--train", type=Path, required=True, help="file for the training images")
    parser.add_argument("--test", type=Path, required=True, help="file for the test images")
    arguments = parser.parse_args()
    settings = load(Pack, "pack")
    index = read_index(arguments.data / "index.csv")
    for split in ("train", "test"):
        names = index.loc[index["split"] == split, "image"].tolist()
        pack(arguments.data, names, settings.side, getattr(arguments, split))


if __name__ == "__main__":
    run(main)
