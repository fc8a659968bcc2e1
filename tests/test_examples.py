"""The library in loops that are not ours: each example runs, and both its losses do what they should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from repository import ROOT

LINE = re.compile(r"epoch (\d+) cross-entropy ([\d.]+) penalty ([\d.]+)")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images in two classes that differ in colour."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for kind, colour in (("blue", (40, 60, 220)), ("red", (220, 60, 40))):
        (folder / kind).mkdir()
        for number in range(4):
            pixels = np.clip(rng.normal(colour, 30, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number}.png")
    return folder


def run(*command: object) -> list[tuple[float, float]]:
    """(cross-entropy, penalty) of each epoch that the example prints."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [(float(loss), float(penalty)) for _, loss, penalty in LINE.findall(done.stdout)]


def assert_trained(epochs: list[tuple[float, float]], count: int) -> None:
    assert len(epochs) == count
    assert epochs[-1][0] < max(epochs[0][0], 0.1), "the cross-entropy neither fell nor is it small"
    assert epochs[-1][1] > 0, "the model moved, and the penalty did not see it"


def test_timm_with_autocast_and_accumulation(photos: Path) -> None:
    options = ("--model", "vit_tiny_patch16_224", "--random", "--epochs", 4, "--batch", 4)
    assert_trained(run("examples.timm_loop", photos, *options), 4)


def test_torchvision_compiled(photos: Path) -> None:
    options = ("--random", "--backend", "aot_eager", "--epochs", 3, "--batch", 4)
    assert_trained(run("examples.torchvision_compiled", photos, *options), 3)


@pytest.mark.parametrize(("kind", "attention"), [("Dinov2", "sdpa"), ("ViT", "eager")])
def test_hugging_face_on_two_processes(photos: Path, tmp_path: Path, kind: str, attention: str) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=16
    )
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    launch = (
        "torch.distributed.run",
        "--nproc-per-node",
        2,
        "--standalone",
        "-m",
        "examples.hugging_face_ddp",
    )
    options = ("--model", tmp_path, "--attention", attention, "--epochs", 6, "--batch", 4)
    assert_trained(run(*launch, photos, *options), 6)
