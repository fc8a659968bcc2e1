"""Stage `check`: refuses a bad params.yaml before anything is fetched, built or trained."""

from __future__ import annotations

import argparse
from pathlib import Path

from gta.atomic import atomic_file
from gta.errors import InputError, run
from gta.guidance import Guide
from gta.params.check import check
from gta.params.section import read_params
from gta.source import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="written, always the same, if all is well")
    arguments = parser.parse_args()
    params = check(read_params())
    # Built with random weights: shows what only the architecture can say, such as a missing [CLS] token.
    model = build(params.source, pretrained=False)
    try:
        Guide(model, model, **params.finetune.gta.model_dump())
    except InputError as error:
        raise InputError(f"params.yaml: finetune.gta: {error}") from None
    with atomic_file(arguments.output) as partial:
        partial.write_text("params.yaml is consistent\n")


if __name__ == "__main__":
    run(main)
