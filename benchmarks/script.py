"""GTA as a script of one's own has it: what benchmarks.sweep compares six of with one sweep here.

Every image is decoded anew each epoch; attention is unfused, and whole maps of both models are kept. It
trains one seed, measures accuracy on the validation images at the end, and saves the weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from benchmarks.step import kept_maps, map_penalty
from gta import models
from gta.params.finetune import Finetune
from gta.params.section import load
from gta.precision import autocast, pick_device


class Photos(Dataset[tuple[Tensor, int]]):
    """The images of a list."""

    def __init__(self, folder: Path, rows: pd.DataFrame, view: Any) -> None:
        self.folder, self.rows, self.view = folder, rows, view

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        row = self.rows.iloc[number]
        with Image.open(self.folder / row["image"]) as image:
            return self.view(image.convert("RGB")), int(row["label"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--weight", type=float, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    settings, device = load(Finetune, "finetune"), pick_device()
    rows = {name: pd.read_csv(getattr(arguments, name)) for name in ("train", "val")}
    torch.manual_seed(0)
    source, card = models.load(arguments.source)
    model, _ = models.start_from(arguments.source, int(rows["train"]["label"].max()) + 1, 0.0)
    model, source = model.to(device), source.to(device).eval().requires_grad_(False)
    for network in (model, source):
        for block in network.get_submodule("blocks").children():
            block.get_submodule("attn").fused_attn = False  # type: ignore[assignment]  # timm's own switch
    finish = [transforms.ToTensor(), transforms.Normalize(card.mean, card.std)]
    scale, ratio = tuple(settings.crop_scale), tuple(settings.crop_ratio)
    crop = transforms.RandomResizedCrop(card.image_size, scale, ratio, InterpolationMode.BICUBIC)
    views = {
        "train": transforms.Compose([crop, transforms.RandomHorizontalFlip(settings.flip), *finish]),
        "val": transforms.Compose(
            [transforms.Resize(card.image_size), transforms.CenterCrop(card.image_size), *finish]
        ),
    }
    loaders = {
        name: DataLoader(
            Photos(arguments.data, rows[name], view),
            settings.batch_size,
            shuffle=name == "train",
            num_workers=arguments.workers,
            persistent_workers=arguments.workers > 0,
        )
        for name, view in views.items()
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    epochs = max(settings.epochs, -(-settings.min_steps // len(loaders["train"])))
    with kept_maps(model) as ours, kept_maps(source) as theirs:
        for _ in range(epochs):
            model.train()
            for images, labels in loaders["train"]:
                ours.clear()
                theirs.clear()
                with autocast(settings.precision, device):
                    with torch.no_grad():
                        source(images.to(device))
                    logits = model(images.to(device))
                loss = F.cross_entropy(logits.float(), labels.to(device))
                optimizer.zero_grad(set_to_none=True)
                (loss + arguments.weight * map_penalty(ours, theirs)).backward()
                optimizer.step()
    print(f"accuracy {accuracy(model.eval(), loaders['val'], device):.3f}")
    torch.save(model.state_dict(), arguments.output)


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader[Any], device: torch.device) -> float:
    """Share of the images that are told right."""
    right = [(model(images.to(device)).argmax(1).cpu() == labels).float() for images, labels in loader]
    return torch.cat(right).mean().item()


if __name__ == "__main__":
    main()
