"""Stage `segment`: how well the attention of a cell's models, or of the source, segments a set of images."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from gta import models
from gta.atomic import atomic_folder
from gta.datasets.index import read_index
from gta.errors import InputError, run
from gta.params.grid import Grid
from gta.params.section import load
from gta.params.segment import Segment
from gta.precision import make_deterministic, pick_device
from gta.protocols import summarise
from gta.segments import WholeImages, draw, segment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=Path, required=True, help="folder of a data set with masks")
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        help="the source's file, or a cell's folder of seed<n>.safetensors",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for segments.csv and the rest")
    arguments = parser.parse_args()
    settings = load(Segment, "segment")
    make_deterministic()
    device = pick_device()
    index = arguments.objects / "index.csv"
    try:
        listed = draw(read_index(index), settings.images, settings.seed)
    except InputError as error:
        raise InputError(f"{index}: {error}, but it is in segment.on of params.yaml") from None
    files = {"source": arguments.weights}
    if arguments.weights.is_dir():
        files = {str(s): arguments.weights / f"seed{s}.safetensors" for s in load(Grid, "grid").seeds}
    loaded = {name: models.load(path) for name, path in files.items()}
    card = next(iter(loaded.values()))[1]
    size = settings.image_size or card.image_size
    for model, _ in loaded.values():
        models.resize(model, size)
    networks = {name: model.to(device) for name, (model, _) in loaded.items()}
    images = WholeImages(arguments.objects, listed, size)
    found = segment(networks, card, images, device, settings)
    rows = pd.concat(found.rows, names=["model"]).reset_index("model")
    summaries = [{"model": name, **summarise(part)} for name, part in found.rows.items()]
    with atomic_folder(arguments.output) as folder:
        write(rows, folder / "segments.csv")
        write(pd.DataFrame(summaries), folder / "summary.csv")
        np.savez_compressed(folder / "patches.npz", **found.patches)
        if arguments.weights.is_file():
            np.savez_compressed(folder / "views.npz", **found.views)


def write(table: pd.DataFrame, path: Path) -> None:
    """Six digits, as in the cells' other files."""
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


if __name__ == "__main__":
    run(main)
