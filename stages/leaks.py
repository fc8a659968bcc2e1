"""Stage `leaks`: pictures of one data set that are in training and test, or in training under two labels."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from gta.atomic import atomic_file
from gta.errors import run
from gta.leaks import find_leaks
from gta.params.leaks import Leaks
from gta.params.section import load

logger = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--output", type=Path, required=True, help="csv, a row a pair")
    arguments = parser.parse_args()
    found = find_leaks(arguments.data, load(Leaks, "leaks"))
    for kind, pairs in found.groupby("kind"):
        logger.warning("%s: %d pairs of pictures in %s", arguments.data, len(pairs), kind)
    with atomic_file(arguments.output) as partial:
        found.to_csv(partial, index=False, lineterminator="\n")


if __name__ == "__main__":
    run(main)
