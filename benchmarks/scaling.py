"""Times plain and GTA steps, GTA here and by whole maps, as the model and its input grow, one axis at a time.

    python -m benchmarks.scaling --batch 64      # a GPU
    python -m benchmarks.scaling --batch 4       # a CPU

Axes: pixels a side (tokens), blocks, images a step; around ViT-S/16 at 224 with 12 blocks. In turn, round
after round; medians of times, and of the ratios that each round gives. What images, weights and cells cost
beside: benchmarks.epochs, benchmarks.sweep and tools/growth.py.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from benchmarks.measuring import RESULTS, machine, over, suffix, timed, write
from benchmarks.step import CLASSES, Batch, Bench, Variant, guided, plain, whole_maps
from gta.precision import pick_device

SIZES, DEPTHS, BATCHES = (112, 224, 336, 518), (6, 12, 24), (0.25, 0.5, 1, 2)


class Point(NamedTuple):
    """Of the three axes."""

    size: int
    depth: int
    batch: int


def points(batch: int, patch: int) -> list[Point]:
    """Every point, once; the sizes are whole numbers of patches."""
    sizes = [Point(size // patch * patch, 12, batch) for size in SIZES]
    depths = [Point(224, depth, batch) for depth in DEPTHS]
    batches = [Point(224, 12, max(1, int(batch * share))) for share in BATCHES]
    return list(dict.fromkeys([*sizes, *depths, *batches]))


def measure(point: Point, model: str, rounds: int, steps: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of each step, and what GTA's are over the plain one."""
    images = torch.randn(point.batch, 3, point.size, point.size, device=device)
    labels = torch.randint(CLASSES, (point.batch,), device=device)
    batch = Batch(images, labels)
    bench = Bench(model, point.size, "auto", device, batch, point.depth)
    with ExitStack() as contexts:
        alone, followed, source = bench.build(), bench.build(), bench.build()
        mapped, theirs = bench.build(chosen=False), bench.build(chosen=False)
        variants = [
            Variant("plain", alone, plain(bench, alone), batch),
            Variant("GTA", followed, guided(bench, followed, source, contexts), batch),
            Variant(
                "GTA by whole maps",
                mapped,
                whole_maps(bench, mapped, theirs, contexts),
                batch,
                replayed=False,
            ),
        ]
        for variant in variants:
            for _ in range(3):  # the second one is captured
                variant.step()
        for _ in range(rounds):
            for variant in variants:
                variant.seconds.append(timed(variant.step, steps, device))
    tokens = alone.patch_embed.num_patches + 1
    row = {**point._asdict(), "tokens": tokens}
    row |= {f"{variant.name}, ms": 1000 * float(np.median(variant.seconds)) for variant in variants}
    for variant in variants[1:]:
        row |= over(variant.seconds, variants[0].seconds, f"{variant.name}, over plain")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--batch", type=int, default=4, help="images a step where they are not the axis")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device = pick_device()
    patch = int(arguments.model.partition("patch")[2].partition("_")[0])
    rows = [
        measure(point, arguments.model, arguments.rounds, arguments.steps, device)
        for point in points(arguments.batch, patch)
    ]
    facts = {
        **{name: getattr(arguments, name) for name in ("model", "rounds", "steps")},
        **machine(device),
    }
    write(pd.DataFrame(rows), facts, arguments.output / f"scaling-{arguments.model}-{suffix(device)}")


if __name__ == "__main__":
    main()
