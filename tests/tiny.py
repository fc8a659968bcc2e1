"""Small inputs that several tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from gta.batches import TrainImages, train_loader
from gta.methods import parse_method
from gta.models import Card, create, start_from, write_weights
from gta.params.finetune import Finetune
from gta.train import Run
from gta.views import Crop

CARD = Card("vit_tiny_patch16_224", 32, 1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0, "test", "none")

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
    "crop_scale": [0.5, 1.0],
    "crop_ratio": [0.75, 1.3333],
    "flip": 0.5,
    "rand_augment": None,
    "validate_every": 0,
    "workers": 0,
    "checkpoint_seconds": 0,
    "gta": {"layers": "all", "heads": "all", "columns": "all", "distance": "logits", "reduction": "mean"},
}


def settings(**changes: Any) -> Finetune:
    """A complete section with some values changed."""
    return Finetune.model_validate({**SETTINGS, **changes})


def images(folder: Path, count: int = 10) -> pd.DataFrame:
    """Noise in `folder`, two classes that differ in brightness, as rows of an index."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        pixels = rng.integers(0, 128, (32, 32, 3)) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "label": number % 2, "class": str(number % 2), "mask": ""})
    return pd.DataFrame(rows).assign(split="train", x0=4.0, y0=4.0, x1=20.0, y1=28.0)


def source_file(folder: Path) -> Path:
    """A source (a ViT-Ti/16 at 32 pixels) with random weights, as the `source` stage writes it."""
    path = folder / "source.safetensors"
    if not path.exists():
        torch.manual_seed(7)
        write_weights(path, create(CARD).state_dict(), CARD)
    return path


def training(folder: Path, method: str = "baseline", seed: int = 0, **changes: Any) -> Run:
    """One seed of a cell on noise."""
    section, stored = settings(**changes), source_file(folder)
    torch.manual_seed(seed)
    model, card = start_from(stored, 2, section.drop_path)
    torch.manual_seed(7)
    source = create(CARD)
    crop = Crop((0.5, 1.0), (0.75, 1.3333), section.flip)
    views = TrainImages(folder, images(folder), card.image_size, crop, seed)
    loader, sampler = train_loader(views, section.batch_size, section.workers)
    return Run(
        model, card, source, parse_method(method), section, seed, torch.device("cpu"), loader, sampler, None
    )
