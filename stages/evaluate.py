"""Stage `evaluate`: measures every seed of one cell on the validation and the test images."""

from __future__ import annotations

import argparse
import logging
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gta import models
from gta.atomic import atomic_folder
from gta.batches import REGIONS, CentreImages, centre_loader
from gta.datasets.index import read_index
from gta.errors import run
from gta.kernels import choose_kernels
from gta.localisation import SOURCE, Seen, look, maps
from gta.methods import parse_method
from gta.metrics import accuracy_measures
from gta.params.evaluate import LOCALISATION, Evaluate
from gta.params.grid import Grid
from gta.params.section import load
from gta.pixels import Pixels
from gta.precision import make_deterministic, pick_device

log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--fraction", type=int, required=True, help="per cent of the training images")
    parser.add_argument("--method", required=True, help="as in grid.methods")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the data set, in which its masks lie"
    )
    parser.add_argument("--pixels", type=Path, required=True, help="folder with train.npy and test.npy")
    parser.add_argument("--train", type=Path, required=True, help="list of training images, to be counted")
    parser.add_argument("--val", type=Path, required=True, help="list of validation images")
    parser.add_argument("--test", type=Path, required=True, help="list of test images")
    parser.add_argument("--source", type=Path, required=True, help="weights of the frozen source")
    parser.add_argument("--weights", type=Path, required=True, help="folder with seed<n>.safetensors")
    parser.add_argument("--output", type=Path, required=True, help="folder for seeds.csv and the rest")
    arguments = parser.parse_args()
    settings, grid = load(Evaluate, "evaluate"), load(Grid, "grid")
    make_deterministic()
    device = pick_device()
    lists = {split: read_index(getattr(arguments, split)) for split in ("train", "val", "test")}
    loaded = {str(seed): models.load(arguments.weights / f"seed{seed}.safetensors") for seed in grid.seeds}
    card = next(iter(loaded.values()))[1]
    networks = {SOURCE: models.load(arguments.source)[0].to(device)}
    networks |= {seed: model.to(device) for seed, (model, _) in loaded.items()}
    for network in networks.values():
        choose_kernels(network, settings.precision, device)
    cell = {
        "dataset": arguments.dataset,
        "fraction": arguments.fraction,
        "method": arguments.method,
        "weight": parse_method(arguments.method).weights.get("gta"),
        "train_images": len(lists["train"]),
        "val_images": len(lists["val"]),
    }
    pixels = {split: Pixels(arguments.pixels / f"{split}.npy") for split in ("train", "test")}
    pixels["val"] = pixels["train"]
    rows, predictions = [], []
    heads: dict[tuple[str, str], int] = {}
    for split in ("val", "test"):
        if lists[split].empty:
            continue
        images = CentreImages(pixels[split], lists[split], card.image_size, card.crop, arguments.data)
        loader = centre_loader(images, settings.batch_size, settings.workers)
        seen = look(
            networks, card, loader, device, settings.precision, settings.layer, settings.heads, settings.keep
        )
        if split == "val":
            heads = best_heads(seen)
        for seed in grid.seeds:
            measured = accuracy_measures(seen[str(seed)].images, settings.ece_bins)
            row = {**cell, "seed": seed, "split": split, "images": len(lists[split]), **measured}
            for name, suffix in ((str(seed), ""), (SOURCE, "_source")):
                row |= localisation(seen[name].images, {r: heads.get((name, r)) for r in REGIONS}, suffix)
            rows.append(row)
            names = {"seed": seed, "split": split, "image": lists[split]["image"]}
            own = seen[str(seed)].images.filter(regex="^(?!jaccard_head)")
            predictions.append(own.assign(**names))
    of_test = {name: of.heads for name, of in seen.items()}  # the last split's
    shown = pictured(lists["test"], settings.pictures)
    views = CentreImages(pixels["test"], shown, card.image_size, card.crop, arguments.data)
    with atomic_folder(arguments.output) as folder:
        if len(shown):
            batch = next(iter(centre_loader(views, len(shown), workers=0)))
            seen_maps: dict[str, Any] = maps(
                networks, card, batch["image"], device, settings.precision, settings.layer
            )
            np.savez_compressed(folder / "maps.npz", **seen_maps)
            known: dict[str, Any] = {name: batch[name].numpy() for name in ("image", *REGIONS)}
            np.savez_compressed(folder / "views.npz", **known)
        write(measures := pd.DataFrame(rows), folder / "seeds.csv")
        write(pd.concat(predictions), folder / "predictions.csv")
        write(pd.concat(of_test, names=["model"]).reset_index("model"), folder / "layers.csv")
        write(class_names(lists["train"], lists["test"]), folder / "classes.csv")
        # handed on, so that what is shown of a cell needs none of its weights
        shutil.copyfile(arguments.weights / "history.csv", folder / "history.csv")
    right = measures.groupby("split")["top1"].mean()["test"]
    log.info(f"{arguments.method}: {right:.1%} of {len(lists['test'])} test images are told right")


def pictured(test: pd.DataFrame, count: int) -> pd.DataFrame:
    """Rows whose attention is to be shown: always the same, of as many classes as there can be."""
    shuffled = test.sample(frac=1, random_state=0)
    first = shuffled.drop_duplicates("label")
    return pd.concat([first, shuffled.drop(first.index)]).head(count).sort_index()


def class_names(*lists: pd.DataFrame) -> pd.DataFrame:
    """Every label and its class, in order of label."""
    return pd.concat(lists)[["label", "class"]].drop_duplicates("label").sort_values("label")


def best_heads(seen: dict[str, Seen]) -> dict[tuple[str, str], int]:
    """(model, region) -> the head that segments these images best on average; none without such regions."""
    found = {}
    for name, region in product(seen, REGIONS):
        means = seen[name].images.filter(regex=rf"^jaccard_head\d+_{region}$").mean()
        if means.notna().any():
            found[name, region] = int(np.nanargmax(means))
    return found


def localisation(images: pd.DataFrame, heads: dict[str, int | None], suffix: str) -> dict[str, float]:
    """Means over the images that have the region; of the head, if any, that was chosen on validation images
    for `jaccard_chosen`. The names of what is the model's own end in `suffix`."""
    measured: dict[str, float] = {}
    for region, head in heads.items():
        measured[f"images_{region}"] = int(images[f"mass_{region}"].notna().sum())
        measured[f"share_{region}"] = images[f"share_{region}"].mean()
        for measure in LOCALISATION:
            column = f"jaccard_head{head}" if measure == "jaccard_chosen" else measure
            known = measure != "jaccard_chosen" or head is not None
            value = images[f"{column}_{region}"].mean() if known else float("nan")
            measured[f"{measure}_{region}{suffix}"] = value
    return measured


def write(table: pd.DataFrame, path: Path) -> None:
    """Six digits: more would be rounding noise."""
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


if __name__ == "__main__":
    run(main)
