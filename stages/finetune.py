"""Stage `finetune`: trains every seed of one cell (data set x fraction x method)."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from gta import models, warning
from gta.atomic import atomic_file, atomic_folder
from gta.batches import CentreImages, TrainImages, centre_loader, train_loader
from gta.cell import fingerprint, keep_only, link
from gta.datasets.index import read_index
from gta.errors import InputError, run
from gta.kernels import choose_kernels
from gta.measure import predict
from gta.memory import told
from gta.meter import memory_of
from gta.methods import MIXINGS, PENALTIES, SCOPES, Method, parse_method
from gta.metrics import accuracy_measures
from gta.models import normalise
from gta.params.finetune import WITHOUT_EFFECT, Finetune
from gta.params.grid import Grid
from gta.params.section import load
from gta.penalties.base import Setting
from gta.penalties.build import build_penalties, needs_keys, reads_source
from gta.pixels import Pixels
from gta.precision import (
    autocast,
    can_compile,
    described,
    make_deterministic,
    pick_device,
    takes_bf16,
)
from gta.processes import launch, launched, together
from gta.scope import merge, restrict
from gta.shards import agreed, processes, rank
from gta.targets import Targets
from gta.train import Run, train
from gta.views import crop_of

log = logging.getLogger(__name__)

OF_TARGETS = {
    "accumulate",
    "batch_size",
    "compile",
    "crop_ratio",
    "crop_scale",
    "deterministic",
    "flip",
    "rand_augment",
}
"""Settings, beside the mixing's and GTA's layers, by which what the source says differs: in its last bit at
least."""


@dataclass(frozen=True)
class Cell:
    """What all seeds of the cell share."""

    settings: Finetune
    method: Method
    pixels: Pixels
    train: pd.DataFrame
    val: pd.DataFrame
    source: Path
    image_size: int
    device: torch.device

    def key(self, seed: int) -> str:
        """Names the state of a seed by everything that its weights depend on."""
        options = {*PENALTIES, *MIXINGS, *SCOPES} - self.method.terms
        parts = {
            "settings": self.settings.model_dump(exclude=WITHOUT_EFFECT | options),
            "method": [self.method.weights, self.method.mixing, self.method.scope],
            "seed": seed,
            "device": self.device.type,
            "lists": [rows[["image", "label"]].to_csv(index=False) for rows in (self.train, self.val)],
            "images": [self.pixels.hashes(rows["image"]) for rows in (self.train, self.val)],
        }
        return f"seed{seed}-{fingerprint(parts, [self.source])}"

    def targets(self, seed: int, folder: Path) -> Targets | None:
        """Where the source's [CLS] rows are kept, if nothing else is read of it and they are to be kept: not
        of a GPU, whose steps are replayed with the source in them (gta.replay)."""
        if reads_source(self.method) != {"gta"} or not self.settings.targets_gb or self.device.type != "cpu":
            return None
        mixing = self.method.mixing
        parts = {
            "settings": self.settings.model_dump(include=OF_TARGETS),
            "layers": self.settings.gta.layers,
            "mixing": mixing and [mixing, getattr(self.settings, mixing).model_dump()],
            "device": described(self.device),
            "bf16": takes_bf16(self.settings.precision, self.device),
            "processes": processes(),
            "list": self.train[["image", "label"]].to_csv(index=False),
            "images": self.pixels.hashes(self.train["image"]),
        }
        name = fingerprint(parts, [self.source])
        return Targets(folder / name, seed, 1e9 * self.settings.targets_gb, self.method.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", required=True, help="as in grid.methods")
    parser.add_argument("--pixels", type=Path, required=True, help="the data set's training images")
    parser.add_argument("--train", type=Path, required=True, help="list of training images")
    parser.add_argument("--val", type=Path, required=True, help="list of validation images")
    parser.add_argument("--source", type=Path, required=True, help="weights of the frozen source")
    parser.add_argument("--state", type=Path, required=True, help="folder for what outlives a killed process")
    parser.add_argument(
        "--targets", type=Path, required=True, help="folder of what all cells keep of the source's attention"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for seed<n>.safetensors, history.csv"
    )
    arguments = parser.parse_args()
    settings, grid = load(Finetune, "finetune"), load(Grid, "grid")
    warning.listen()
    if settings.deterministic:
        make_deterministic()
    cell = Cell(
        settings,
        parse_method(arguments.method),
        Pixels(arguments.pixels),
        read_index(arguments.train),
        read_index(arguments.val),
        arguments.source,
        models.read_card(arguments.source).image_size,
        pick_device(),
    )
    if settings.batch_size > len(cell.train):
        raise InputError(
            f"params.yaml: finetune.batch_size: expected at most the {len(cell.train)} images of "
            f"{arguments.train}, got {settings.batch_size}"
        )
    if settings.processes > 1 and not launched():
        launch(settings.processes, "stages.finetune")
        return
    with together():
        train_cell(cell, grid.seeds, arguments.state, arguments.targets, arguments.output)


def train_cell(cell: Cell, seeds: list[int], folder: Path, targets: Path, output: Path) -> None:
    """Trains the seeds whose state is not in `folder` yet; the first process then writes the output.

    targets: the folder that `Cell.targets` is given.
    """
    log.info(f"trains on {place_of(cell)}")
    states = agreed({seed: folder / cell.key(seed) for seed in seeds} if rank() == 0 else {})
    trained = agreed([seed for seed, state in states.items() if (state / "history.csv").exists()])
    for seed, state in states.items():
        if seed in trained:
            log.info(f"seed {seed}: already trained, taken from {state}")
        else:
            with told("finetune", advice_of(cell)):
                train_seed(cell, seed, state, targets)
    if rank():
        return
    with atomic_folder(output) as made:
        for seed, state in states.items():
            link(state / "weights.safetensors", made / f"seed{seed}.safetensors")
        history = pd.concat(pd.read_csv(state / "history.csv", dtype=str) for state in states.values())
        history.to_csv(made / "history.csv", index=False, lineterminator="\n")
    keep_only(folder, [state.name for state in states.values()])


def place_of(cell: Cell) -> str:
    """Where it trains, in words."""
    place = described(cell.device)
    return place if processes() == 1 else f"{processes()} processes, each on {place}"


def advice_of(cell: Cell) -> str:
    """What to do where memory is short."""
    settings = cell.settings
    raised = "" if cell.method.weights.get("bss") else "raise finetune.accumulate or "
    return f"with batch_size {settings.batch_size} at {cell.image_size} px: {raised}lower finetune.batch_size"


def train_seed(cell: Cell, seed: int, state: Path, targets: Path) -> None:
    """Trains one seed; leaves weights.safetensors, cost.json and history.csv, the latter last, in `state`."""
    settings = cell.settings
    num_classes = int(cell.train["label"].max()) + 1
    source, card = models.load(cell.source)
    torch.manual_seed(seed)
    # a probe learns on features that are the same each time
    drop_path = 0.0 if cell.method.scope == "probe" else settings.drop_path
    model, card = models.start_from(cell.source, num_classes, drop_path)
    source, model = source.to(cell.device), model.to(cell.device)
    restrict(
        model,
        cell.method.scope,
        settings.lora,
        torch.zeros(1, 3, card.image_size, card.image_size).to(cell.device),
    )
    for network in (source, model):
        choose_kernels(network, settings.precision, cell.device)
    views = 2 if needs_keys(cell.method) else 1
    images = TrainImages(cell.pixels, cell.train, card.image_size, crop_of(settings), seed, views)
    loader, sampler = train_loader(images, settings.batch_size, settings.workers, cell.device)
    centre = CentreImages(cell.pixels, cell.val, card.image_size, card.crop)
    wanted = settings.validate_every and rank() == 0
    # the same each time: cut once
    val = list(centre_loader(centre, settings.batch_size, settings.workers)) if wanted else []

    def validate(trained: torch.nn.Module) -> dict[str, float]:
        images = predict(trained, card, val, cell.device, settings.precision)
        return accuracy_measures(images, bins=1)

    def centre_views() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        seen = CentreImages(cell.pixels, cell.train, card.image_size, card.crop)
        for batch in centre_loader(seen, settings.batch_size, settings.workers):
            yield normalise(batch["image"].to(cell.device), card), batch["label"].to(cell.device)

    setting = Setting(
        model,
        source,
        settings,
        num_classes,
        centre_views,
        lambda: autocast(settings.precision, cell.device),
    )
    penalties = build_penalties(cell.method, setting)
    if settings.compile and can_compile(cell.device):
        model.compile(dynamic=False)
    trainee = Run(
        model=model,
        card=card,
        source=source,
        method=cell.method,
        penalties=penalties,
        settings=settings,
        seed=seed,
        device=cell.device,
        loader=loader,
        sampler=sampler,
        validate=validate if val else None,
        targets=cell.targets(seed, targets),
    )
    checkpoint = state / "checkpoint.pt"
    trained = train(trainee, checkpoint)
    if rank():
        return
    if cell.method.scope == "lora":
        merge(model)
    models.write_weights(state / "weights.safetensors", model.state_dict(), card)
    cost = trained.cost._asdict() | {
        "images": trainee.epochs * len(cell.train),
        "memory_of": memory_of(cell.device),
        "device": place_of(cell),
    }
    with atomic_file(state / "cost.json") as partial:
        partial.write_text(json.dumps(cost, indent=2) + "\n")
    with atomic_file(state / "history.csv") as partial:
        trained.history.to_csv(partial, index=False, lineterminator="\n")
    checkpoint.unlink()


if __name__ == "__main__":
    run(main)
