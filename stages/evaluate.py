"""Stage `evaluate`: measures every seed of one cell on the validation and the test images."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from gta import models
from gta.atomic import atomic_folder
from gta.batches import REGIONS, CentreImages, centre_loader
from gta.datasets.index import read_index
from gta.errors import run
from gta.measure import SOURCE, look
from gta.methods import parse_method
from gta.metrics import accuracy_measures
from gta.params.evaluate import Evaluate
from gta.params.grid import Grid
from gta.params.section import load
from gta.precision import make_deterministic, pick_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--fraction", type=int, required=True, help="per cent of the training images")
    parser.add_argument("--method", required=True, help="as in grid.methods")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set's images and masks")
    parser.add_argument("--train", type=Path, required=True, help="list of training images, to be counted")
    parser.add_argument("--val", type=Path, required=True, help="list of validation images")
    parser.add_argument("--test", type=Path, required=True, help="list of test images")
    parser.add_argument("--source", type=Path, required=True, help="weights of the frozen source")
    parser.add_argument("--weights", type=Path, required=True, help="folder with seed<n>.safetensors")
    parser.add_argument("--output", type=Path, required=True, help="folder for seeds.csv, predictions.csv")
    arguments = parser.parse_args()
    settings, grid = load(Evaluate, "evaluate"), load(Grid, "grid")
    make_deterministic()
    device = pick_device()
    lists = {split: read_index(getattr(arguments, split)) for split in ("train", "val", "test")}
    loaded = {str(seed): models.load(arguments.weights / f"seed{seed}.safetensors") for seed in grid.seeds}
    card = next(iter(loaded.values()))[1]
    networks = {seed: model.to(device) for seed, (model, _) in loaded.items()}
    networks[SOURCE] = models.load(arguments.source)[0].to(device)
    cell = {
        "dataset": arguments.dataset,
        "fraction": arguments.fraction,
        "method": arguments.method,
        "weight": parse_method(arguments.method).weights.get("gta"),
        "train_images": len(lists["train"]),
        "val_images": len(lists["val"]),
    }
    rows, predictions = [], []
    for split in ("val", "test"):
        if lists[split].empty:
            continue
        images = CentreImages(arguments.data, lists[split], card.image_size, card.crop, with_objects=True)
        loader = centre_loader(images, settings.batch_size, settings.workers)
        seen = look(networks, card, loader, device, settings.precision, settings.layer, settings.heads)
        for seed in grid.seeds:
            measured = accuracy_measures(seen[str(seed)], settings.ece_bins)
            row = {**cell, "seed": seed, "split": split, "images": len(lists[split]), **measured}
            rows.append(row | localisation(seen[str(seed)], seen[SOURCE]))
            names = {"seed": seed, "split": split, "image": lists[split]["image"]}
            predictions.append(seen[str(seed)].assign(**names))
    with atomic_folder(arguments.output) as folder:
        write(pd.DataFrame(rows), folder / "seeds.csv")
        write(pd.concat(predictions), folder / "predictions.csv")


def localisation(model: pd.DataFrame, source: pd.DataFrame) -> dict[str, float]:
    """Means over the images that have the region, of the model and of the source beside it."""
    measured: dict[str, float] = {}
    for region in REGIONS:
        measured[f"images_{region}"] = int(model[f"mass_{region}"].notna().sum())
        measured[f"share_{region}"] = model[f"share_{region}"].mean()
        for measure in ("mass", "hit"):
            measured[f"{measure}_{region}"] = model[f"{measure}_{region}"].mean()
            measured[f"{measure}_{region}_source"] = source[f"{measure}_{region}"].mean()
    return measured


def write(table: pd.DataFrame, path: Path) -> None:
    """Six digits: more would be rounding noise."""
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


if __name__ == "__main__":
    run(main)
