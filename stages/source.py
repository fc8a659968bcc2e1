"""Stage `source`: the frozen pretrained model as one safetensors file."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from gta.errors import run
from gta.models import write_weights
from gta.params.section import load
from gta.params.source import Source
from gta.source import convert

logger = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the source's weights and card")
    parser.add_argument("--downloads", type=Path, required=True, help="folder that keeps fetched weights")
    arguments = parser.parse_args()
    state, card = convert(load(Source, "source"), arguments.downloads)
    logger.info("weights of %s: licence: %s", card.origin, card.licence)
    write_weights(arguments.output, state, card)


if __name__ == "__main__":
    run(main)
