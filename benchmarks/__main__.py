"""Runs every benchmark, one after another, with batches that suit this machine: on a quiet one, please.

    python -m benchmarks FOLDER         # class folders of JPEGs, such as data/cub/images

Each prints a table and writes it to benchmarks/results, as csv and json: steps of ViT-S and ViT-B, whole
epochs from files, growth by tokens, depth and batch, and a sweep of weights with the data of params.yaml.
What DVC costs as the grid grows: tools/growth.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from gta.precision import pick_device

SMALL, BASE = "vit_small_patch16_224", "vit_base_patch16_224"


def runs(photos: str, *, gpu: bool) -> list[list[str]]:
    """Modules of this package with their arguments."""
    small, base, growing = (128, 256, 64) if gpu else (8, 8, 4)
    compiled = ["--compile"] if gpu else []
    return [
        ["step", "--model", SMALL, "--batch", str(small), *compiled],
        ["step", "--model", BASE, "--batch", str(base), *compiled],
        ["epochs", photos, "--model", SMALL, "--batch", str(small), *compiled],
        ["scaling", "--model", SMALL, "--batch", str(growing)],
        ["sweep"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos")
    arguments = parser.parse_args()
    for name, *options in runs(arguments.photos, gpu=pick_device().type == "cuda"):
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=True)


if __name__ == "__main__":
    main()
