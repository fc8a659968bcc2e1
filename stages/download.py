"""Stage `download`: one data set as images, masks and index.csv, verified."""

from __future__ import annotations

import argparse
from pathlib import Path

from gta.datasets.build import build
from gta.errors import run
from gta.params.download import entry
from gta.params.section import read_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="name of an entry of the download section")
    parser.add_argument("--downloads", type=Path, required=True, help="folder that keeps fetched archives")
    parser.add_argument("--output", type=Path, required=True, help="folder of the data set")
    arguments = parser.parse_args()
    build(arguments.dataset, entry(read_params(), arguments.dataset), arguments.downloads, arguments.output)


if __name__ == "__main__":
    run(main)
