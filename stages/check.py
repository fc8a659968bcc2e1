"""Stage `check`: refuses a bad params.yaml before anything is fetched, built or trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gta.atomic import atomic_file
from gta.attention import layout_of
from gta.errors import InputError, run
from gta.guidance import numbers
from gta.methods import NEEDS_SOURCE_HEAD, parse_method
from gta.models import resize
from gta.params.check import Params, check
from gta.params.section import read_params
from gta.scope import restrict
from gta.source import build
from gta.views import crop_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, nargs="+", help="written, always the same, if all is well"
    )
    arguments = parser.parse_args()
    params = check(read_params())
    # Built with random weights: shows what only the architecture can say, such as a missing [CLS] token.
    model = build(params.source)
    check_layers(params, model)
    check_heads(params.grid.methods, model)
    crop_of(params.finetune)
    if any(parse_method(name).scope == "lora" for name in params.grid.methods):
        size = model.patch_embed.img_size
        restrict(model, "lora", params.finetune.lora, torch.zeros(1, 3, *size))
    if params.segment.image_size is not None:
        check_resolution(params.segment.image_size, model)
    for output in arguments.output:
        with atomic_file(output) as partial:
            partial.write_text("params.yaml is consistent\n")


def check_layers(params: Params, model: nn.Module) -> None:
    """Raises InputError where an option names a layer or head that the model does not have."""
    layout, settings = layout_of(model), params.finetune
    blocks = len(layout.attentions)
    options: dict[str, tuple[Any, int]] = {
        "finetune.gta.layers": (settings.gta.layers, blocks),
        "finetune.gta.heads": (settings.gta.heads, min(layout.heads)),
        "finetune.at.layers": (settings.at.layers, blocks),
        "finetune.delta.layers": (settings.delta.layers, blocks),
        "evaluate.layer": ([params.evaluate.layer], blocks),
    }
    for key, (wanted, count) in options.items():
        try:
            numbers(key.rpartition(".")[2].removesuffix("s"), wanted, count)
        except InputError as error:
            raise InputError(f"params.yaml: {key}: {error}") from None


def check_heads(methods: list[str], model: nn.Module) -> None:
    """Raises InputError where a method needs the source's classifier and there is none."""
    needing = [name for name in methods if NEEDS_SOURCE_HEAD & set(parse_method(name).weights)]
    if needing and not getattr(model, "num_classes", 0):
        raise InputError(
            f"params.yaml: grid.methods: {needing[0]!r} needs a source with a classifier, as supervised ones "
            "have; that of source.model has none"
        )


def check_resolution(size: int, model: nn.Module) -> None:
    """Raises InputError where the model, which is changed, cannot see images of `size` pixels."""
    try:
        resize(model, size)
        layout_of(model)
    except InputError as error:
        raise InputError(f"params.yaml: segment.image_size: {error}") from None


if __name__ == "__main__":
    run(main)
