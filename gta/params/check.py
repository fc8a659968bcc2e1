"""Checks a whole parameter file: every section, and what holds between them.

python -m gta.params.check [FILE]      # params.yaml by default; one line a mistake, exit status 1
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gta.errors import InputError, run
from gta.methods import families, of_weight, parse_method
from gta.params.aggregate import Aggregate
from gta.params.download import Download, Folder, Voc
from gta.params.evaluate import Evaluate
from gta.params.finetune import Finetune
from gta.params.grid import Grid
from gta.params.leaks import Leaks
from gta.params.pack import Pack
from gta.params.section import PARAMS, Section, parse, read_params
from gta.params.segment import Segment
from gta.params.source import Source
from gta.params.split import Split

WITHOUT_MASKS = ("cars", "aircraft", "dogs", "hub")
"""Readers that never give a mask."""


class Params(Section):
    """The sections of a parameter file, one a stage plus the grid."""

    grid: Grid
    download: Download
    split: Split
    pack: Pack
    leaks: Leaks
    source: Source
    finetune: Finetune
    evaluate: Evaluate
    segment: Segment
    aggregate: Aggregate


def check(values: dict[str, Any]) -> Params:
    """The file's values as typed sections. Raises InputError with one line for every mistake."""
    params = parse(Params, values)
    mistakes = [*_data_sets(params), *_weight(params), *_sizes(params), *_shards(params)]
    if mistakes:
        raise InputError("\n".join(f"params.yaml: {mistake}" for mistake in mistakes))
    return params


def _data_sets(params: Params) -> list[str]:
    known = params.download.root
    named = {"grid.datasets": params.grid.datasets, "segment.on": params.segment.on}
    mistakes = [
        f"{key}.{number}: expected an entry of the download section "
        f"({', '.join(known) or 'which is empty'}), got {name!r}"
        for key, names in named.items()
        for number, name in enumerate(names)
        if name not in known
    ]
    for number, name in enumerate(params.grid.datasets):
        if isinstance(known.get(name), Voc):
            mistakes.append(
                f"grid.datasets.{number}: expected images of one class each, got {name!r}, whose reader is "
                "'voc'; it can be in segment.on"
            )
    for number, name in enumerate(params.segment.on):
        entry = known.get(name)
        if entry is None:
            continue
        if entry.reader in WITHOUT_MASKS or (isinstance(entry, Folder) and entry.masks is None):
            mistakes.append(
                f"segment.on.{number}: expected a data set with masks, got {name!r}, whose reader "
                f"{entry.reader!r} has none"
            )
    return mistakes


def _weight(params: Params) -> list[str]:
    methods = [parse_method(name) for name in params.grid.methods]
    weights = [method.weights["gta"] for method in methods if method.terms == {"gta"}]
    given = params.aggregate.weight
    if given is not None and given not in weights:
        return [
            f"aggregate.weight: expected a weight of grid.methods ({_list(weights)}) or null, got {given}"
        ]
    if given is None and params.split.val == 0 and len(weights) > 1:
        return [
            "aggregate.weight: expected a number, as split.val is 0 and a weight is never chosen on test "
            f"images; choices: {_list(weights)}; got null"
        ]
    return [
        f"grid.methods: expected one weight of {family}, as split.val is 0 and a weight is never chosen on "
        f"test images; got {', '.join(names)}"
        for family, names in families(params.grid.methods).items()
        if params.split.val == 0 and len(of_weight(names, given)) > 1
    ]


def _sizes(params: Params) -> list[str]:
    """The batch against the most images that the smallest fraction can have, where counts are known."""
    mistakes = []
    for name in params.grid.datasets:
        entry = params.download.root.get(name)
        if entry is None or isinstance(entry, Folder | Voc):
            continue
        classes = 10 if entry.reader == "digits" else entry.classes
        images = entry.train * 10 if entry.reader == "digits" else entry.train
        smallest = min(params.grid.fractions)
        most = images * (100 - params.split.val) * smallest // 10_000 + classes
        if params.finetune.batch_size > most:
            mistakes.append(
                f"finetune.batch_size: expected at most the training images of {name} at {smallest} %, "
                f"which are {most} or fewer, got {params.finetune.batch_size}"
            )
    return mistakes


def _shards(params: Params) -> list[str]:
    """BSS and accumulation, which gta.penalties.bss refuses too."""
    accumulate = params.finetune.accumulate
    if accumulate == 1 or not any(parse_method(name).weights.get("bss") for name in params.grid.methods):
        return []
    return [f"finetune.accumulate: expected 1 with bss, which needs a whole batch at once, got {accumulate}"]


def _list(numbers: list[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers) or "there is none"


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PARAMS
    check(read_params(path))


if __name__ == "__main__":
    run(main)
