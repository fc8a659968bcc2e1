"""Small inputs that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from gta.batches import CentreImages, TrainImages, centre_loader, train_loader
from gta.methods import parse_method
from gta.models import Card, create, load, normalise, start_from, write_weights
from gta.params.finetune import Finetune
from gta.penalties.base import Setting
from gta.penalties.build import build_penalties, needs_keys
from gta.pixels import Pixels, pack
from gta.scope import restrict
from gta.train import Run
from gta.views import Crop

CARD = Card("vit_tiny_patch16_224", {}, 32, 1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0, "test", "none")

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "min_steps": 0,
    "batch_size": 4,
    "optimizer": "adamw",
    "lr": 1e-3,
    "momentum": 0.9,
    "weight_decay": 0.05,
    "head_lr_scale": 5.0,
    "layer_decay": 0.9,
    "warmup": 0.1,
    "label_smoothing": 0.1,
    "clip_norm": 1.0,
    "drop_path": 0.1,
    "precision": "fp32",
    "compile": False,
    "deterministic": True,
    "crop_scale": [0.5, 1.0],
    "crop_ratio": [0.75, 1.3333],
    "flip": 0.5,
    "rand_augment": None,
    "validate_every": 0,
    "workers": 0,
    "processes": 1,
    "accumulate": 1,
    "checkpoint_seconds": 0,
    "targets_gb": 0.0,
    "gta": {"layers": "all", "heads": "all", "columns": "all", "distance": "logits", "reduction": "mean"}
    | {"decay": "none"},
    "at": {"layers": "all"},
    "l2sp": {"head": 1.0},
    "delta": {"layers": "all", "head": 0.0},
    "bss": {"count": 1},
    "lwf": {"temperature": 3.0},
    "bituning": {"temperature": 0.07, "queue": 3, "momentum": 0.9, "width": 7},
    "mixup": {"alpha": 0.8, "probability": 1.0},
    "cutmix": {"alpha": 1.0, "probability": 1.0},
    "transmix": {"alpha": 1.0, "probability": 1.0},
    "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "targets": ["attn.qkv"], "lr_scale": 10.0},
}


def settings(**changes: Any) -> Finetune:
    """A complete section with some values changed, within a term's options too."""
    merged = {
        key: SETTINGS[key] | value if isinstance(value, dict) else value for key, value in changes.items()
    }
    return Finetune.model_validate(SETTINGS | merged)


def images(folder: Path, count: int = 10) -> pd.DataFrame:
    """Noise in `folder`, two classes that differ in brightness, as rows of an index."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        pixels = rng.integers(0, 128, (32, 32, 3)) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "label": number % 2, "class": str(number % 2), "mask": ""})
    return pd.DataFrame(rows).assign(split="train", x0=4.0, y0=4.0, x1=20.0, y1=28.0)


def source_file(folder: Path, **changes: Any) -> Path:
    """A source (a ViT-Ti/16 at 32 pixels) with random weights, as the `source` stage writes it."""
    path, card = folder / "source.safetensors", replace(CARD, **changes)
    if not path.exists():
        torch.manual_seed(7)
        write_weights(path, create(card).state_dict(), card)
    return path


def packed(folder: Path, rows: pd.DataFrame) -> Pixels:
    """The rows' images, as stage `pack` keeps them."""
    path = folder / "packed/images.npy"
    if not path.exists():
        pack(folder, rows["image"].tolist(), None, path)
    return Pixels(path)


def centre_views(folder: Path, device: str = "cpu") -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The images of `training` as they are seen in evaluation."""
    rows = images(folder)
    for batch in centre_loader(CentreImages(packed(folder, rows), rows, 32, 1.0), 4, 0):
        yield normalise(batch["image"].to(device), CARD), batch["label"].to(device)


def training(
    folder: Path,
    method: str = "baseline",
    seed: int = 0,
    classes: int = 0,
    on: str = "cpu",
    **changes: Any,
) -> Run:
    """One seed of a cell on noise; `classes`: outputs of the source's own head; `on`: the device."""
    section, stored = settings(**changes), source_file(folder, num_classes=classes)
    parsed = parse_method(method)
    torch.manual_seed(seed)
    model, card = start_from(stored, 2, section.drop_path)
    source, _ = load(stored)
    model, source = model.to(on), source.to(on)
    restrict(model, parsed.scope, section.lora, torch.zeros(1, 3, 32, 32, device=on))
    rows = images(folder)
    crop = Crop((0.5, 1.0), (0.75, 1.3333), section.flip)
    views = 2 if needs_keys(parsed) else 1
    seen = TrainImages(packed(folder, rows), rows, card.image_size, crop, seed, views)
    device = torch.device(on)
    loader, sampler = train_loader(seen, section.batch_size, section.workers, device)

    penalties = build_penalties(
        parsed, Setting(model, source, section, 2, partial(centre_views, folder, on), nullcontext)
    )
    return Run(model, card, source, parsed, penalties, section, seed, device, loader, sampler, validate=None)
