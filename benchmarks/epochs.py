"""Times whole epochs from files on disk: here, by timm's own loader, and by torchvision's as TLlib has it.

    python -m benchmarks.epochs FOLDER --model vit_small_patch16_224 --batch 128     # a GPU
    python -m benchmarks.epochs FOLDER --model vit_small_patch16_224 --batch 8       # a CPU

FOLDER: class folders of JPEGs, such as data/cub/images. The step is a plain one, under which a loader shows
most. The others decode each image each epoch, in as many processes as there are cores, 8 at most; here images
are decoded once before (`decoding once`, told apart) at --side, and an epoch of a quarter of them and of half
is timed too. In turn, round after round, after a pass of each loader that starts its workers; medians of
rates, and of the ratios that each round gives.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.data import ImageDataset, create_loader
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode

from benchmarks.measuring import RESULTS, machine, over, suffix, timed, write
from benchmarks.step import Batch, Bench, Variant, plain
from gta.batches import TrainImages, train_loader
from gta.models import Card, normalise
from gta.pixels import Pixels, pack
from gta.precision import can_compile, pick_device
from gta.views import Crop

SCALE, RATIO, FLIP = (0.08, 1.0), (3 / 4, 4 / 3), 0.5
HALF = (0.5, 0.5, 0.5)
STEP = "step alone"
SHARES = (4, 2)
"""What the number of photos is divided by for smaller epochs, of whole batches."""
Batches = Iterable[tuple[Tensor, Tensor]]


def by_timm(photos: Path, bench: Bench, workers: int) -> Batches:
    """timm's own loader, with its prefetcher: uint8 from workers, normalised on the device. Crops and flips
    are as here, no other policies."""
    made: Batches = create_loader(
        ImageDataset(str(photos)),
        (3, bench.size, bench.size),
        len(bench.batch.images),
        is_training=True,
        scale=SCALE,
        ratio=RATIO,
        hflip=FLIP,
        color_jitter=None,
        interpolation="bicubic",
        mean=HALF,
        std=HALF,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        device=bench.device,
        persistent_workers=workers > 0,
    )
    return made


def by_torchvision(photos: Path, bench: Bench, workers: int) -> Batches:
    """ImageFolder and torchvision's transforms, as in TLlib's examples."""
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(bench.size, SCALE, RATIO, InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(FLIP),
            transforms.ToTensor(),
            transforms.Normalize(HALF, HALF),
        ]
    )
    return DataLoader(
        ImageFolder(str(photos), view),
        len(bench.batch.images),
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def ours(pixels: Pixels, rows: pd.DataFrame, bench: Bench, workers: int) -> Batches:
    """As stage `finetune` sees them."""
    images = TrainImages(pixels, rows, bench.size, Crop(SCALE, RATIO, FLIP), seed=0)
    loader, _ = train_loader(images, len(bench.batch.images), workers, bench.device)
    card = Card(bench.model, {}, bench.size, 1.0, HALF, HALF, 0, "", "")

    class Normalised:
        def __iter__(self) -> Any:
            for views, labels in loader:
                yield normalise(views[:, 0].to(bench.device), card), labels

    return Normalised()


def trainer(bench: Bench, compiled: bool) -> Callable[[Batch], None]:
    """A plain step, as stage `finetune` makes it."""
    model = bench.build()
    if compiled and can_compile(bench.device):
        model.compile(dynamic=False)
    return Variant("plain", model, plain(bench, model), bench.batch).step


def epoch(batches: Batches, step: Callable[[Batch], None] | None, device: torch.device) -> int:
    """One pass; without a step, of the loader alone. Returns its images; timm leaves out the last part of a
    batch."""
    count = 0
    for images, labels in batches:
        here = Batch(*(values.to(device, non_blocking=True) for values in (images, labels)))
        if step is not None:
            step(here)
        count += len(images)
    return count


def alone(bench: Bench, step: Callable[[Batch], None], count: int) -> int:
    """Steps of one batch that is on the device. Returns their images, `count` or up to a batch more."""
    size = len(bench.batch.images)
    steps = -(-count // size)
    for _ in range(steps):
        step(bench.batch)
    return steps * size


def rate(run: Callable[[], int], device: torch.device) -> float:
    """Images a second."""
    counts: list[int] = []
    seconds = timed(lambda: counts.append(run()), 1, device)
    return counts[0] / seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--size", type=int, default=224, help="height and width of a view, in pixels")
    parser.add_argument("--side", type=int, default=256, help="pack.side")
    parser.add_argument("--workers", type=int, default=0, help="finetune.workers, for ours")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device = pick_device()
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
    labels = torch.zeros(arguments.batch, dtype=torch.long, device=device)
    bench = Bench(arguments.model, arguments.size, arguments.precision, device, Batch(images, labels))
    step = trainer(bench, arguments.compile)
    listed = ImageFolder(str(arguments.photos)).samples
    rows = pd.DataFrame(
        {"image": [str(Path(name).relative_to(arguments.photos)) for name, _ in listed]}
    ).assign(label=[label for _, label in listed])
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        pack(arguments.photos, rows["image"].tolist(), arguments.side, Path(folder) / "train.npy")
        decoding = time.perf_counter() - started
        pixels = Pixels(Path(folder) / "train.npy")
        workers = min(8, os.cpu_count() or 1)
        loaders = {
            "here": ours(pixels, rows, bench, arguments.workers),
            "as timm loads": by_timm(arguments.photos, bench, workers),
            "as TLlib loads": by_torchvision(arguments.photos, bench, workers),
        }
        ways: dict[str, Callable[[], int]] = {STEP: partial(alone, bench, step, len(rows))}
        ways |= {f"epoch, {name}": partial(epoch, each, step, device) for name, each in loaders.items()}
        ways |= {
            f"loader alone, {name}": partial(epoch, each, None, device) for name, each in loaders.items()
        }
        counts = [arguments.batch * max(1, len(rows) // share // arguments.batch) for share in SHARES]
        fewer = {
            f"epoch, here, {count} of {len(rows)} photos": ours(
                pixels, rows.iloc[:count], bench, arguments.workers
            )
            for count in counts
        }
        ways |= {name: partial(epoch, each, step, device) for name, each in fewer.items()}
        for _ in range(2):  # compiled in the first, captured in the second one, the last batch too
            epoch(loaders["here"], step, device)
        for each in (*loaders.values(), *fewer.values()):
            epoch(each, None, device)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, run in ways.items():
                rates[name].append(rate(run, device))
        megapixels = [math.prod(pixels.full_size(name)) / 1e6 for name in rows["image"]]
    table = pd.DataFrame(
        {
            "what": name,
            "images/s": np.median(each),
            "first quartile": np.percentile(each, 25),
            "third quartile": np.percentile(each, 75),
            **over(each, rates[STEP], "of step alone"),
        }
        for name, each in rates.items()
    )
    facts = {
        **{
            name: getattr(arguments, name) for name in ("model", "batch", "size", "side", "compile", "rounds")
        },
        "precision": bench.computes_in,
        "photos": arguments.photos.name,
        "images": len(rows),
        "megapixels each": round(float(np.mean(megapixels)), 3),
        "workers here": arguments.workers,
        "workers there": workers,
        "decoding once, s": round(decoding, 2),
        **machine(device),
    }
    write(table, facts, arguments.output / f"epochs-{arguments.model}-{arguments.size}-{suffix(device)}")


if __name__ == "__main__":
    main()
