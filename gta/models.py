"""Builds the source and the models that start from it, and stores each as one safetensors file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

import gta.demo_vit  # noqa: F401 registers the demo's model with timm
from gta.atomic import atomic_file
from gta.attention import layout_of
from gta.errors import InputError
from gta.precision import sent

HEADS = ("head.", "head_dist.")
"""How names of the weights of classifiers start."""


@dataclass(frozen=True)
class Card:
    """What a weights file says of itself: enough to rebuild the model and to feed it."""

    model: str
    """timm's name."""
    options: dict[str, Any]
    """What timm is told besides, such as the number of heads where it is not the name's own."""
    image_size: int
    """Height and width in pixels."""
    crop: float
    """Side of the central square seen in evaluation, over the image's shorter side."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_classes: int
    """Outputs of the head; 0 where there is none."""
    origin: str
    """Where the weights came from."""
    licence: str
    """Of the pretrained weights, as far as it is known."""


def create(card: Card, drop_path: float = 0.0) -> nn.Module:
    """A model with fresh weights that reads the [CLS] token.

    Raises InputError where timm does not know the name, or the [CLS] row means nothing in this model.
    """
    options = {**card.options, "num_classes": card.num_classes, "drop_path_rate": drop_path}
    model = create_timm(card.model, card.image_size, **options)
    layout_of(model)
    return model


def create_timm(name: str, image_size: int, pool: str | None = "token", **options: Any) -> nn.Module:
    """timm's model `name` for square images, its head reading [CLS], or as it was pretrained where `pool`
    is None; options as in timm.create_model.

    Raises InputError where timm refuses: an unknown name (with close ones), an image size that its
    patches do not divide, weights that do not fit, no network.
    """
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, timm.list_models(), 3)
        raise InputError(
            f"params.yaml: source.model: {name!r} is not a model of timm; close: {', '.join(close) or 'none'}"
        )
    try:
        options |= {} if pool is None else {"global_pool": pool}
        model: nn.Module = timm.create_model(name, img_size=image_size, **options)
    except Exception as error:  # timm and the hub raise all kinds, for what is always the user's choice
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "; a file can be named in source.weights instead" if options.get("pretrained") else ""
        raise InputError(
            f"params.yaml: source.model: timm cannot build {name!r} at {image_size} pixels: {reason}{advice}"
        ) from error
    return model


def start_from(source: Path, num_classes: int, drop_path: float) -> tuple[nn.Module, Card]:
    """A model with the weights of the source file and a fresh head of `num_classes`, for training."""
    state, card = read_weights(source)
    card = replace(card, num_classes=num_classes)
    model = create(card, drop_path)
    body = {name: tensor for name, tensor in state.items() if not name.startswith(HEADS)}
    problems = model.load_state_dict(body, strict=False)
    missing = [name for name in problems.missing_keys if not name.startswith(HEADS)]
    if missing or problems.unexpected_keys:
        raise InputError(f"{source}: missing {missing}, unexpected {problems.unexpected_keys}")
    return model, card


def load(path: Path) -> tuple[nn.Module, Card]:
    """The model of a weights file, with all its weights, in evaluation mode."""
    state, card = read_weights(path)
    model = create(card)
    model.load_state_dict(state)
    return model.eval(), card


def resize(model: Any, size: int) -> None:
    """Makes a model of timm's take square images of `size` pixels; timm resamples what depends on their
    position (bicubic), as when it loads weights at another size.

    Raises InputError where the patches do not divide `size`, or the class cannot be resized.
    """
    name, patch = type(model).__name__, int(model.patch_embed.patch_size[0])
    if size % patch:
        raise InputError(f"expected a multiple of the patch size {patch}, got {size}")
    if not hasattr(model, "set_input_size"):
        raise InputError(f"{name} cannot take images of another size than it was built for, got {size}")
    model.set_input_size(img_size=(size, size))


def write_weights(path: Path, state: dict[str, Tensor], card: Card) -> None:
    """Writes tensors and card; the same weights give the same bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_file(path) as partial:
        partial.write_bytes(save(tensors, {"card": json.dumps(asdict(card), sort_keys=True)}))


def read_weights(path: Path) -> tuple[dict[str, Tensor], Card]:
    """Tensors and card of a file that this project wrote. Raises InputError where it is not one."""
    card = read_card(path)
    with safe_open(path, "pt") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}, card  # noqa: SIM118 not a dict


def read_card(path: Path) -> Card:
    """The card of a file that this project wrote. Raises InputError where it is not one."""
    try:
        path.open("rb").close()  # safetensors takes every file that it may not read for a missing one
        with safe_open(path, "pt") as stored:
            about = stored.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from None
    try:
        card = json.loads(about["card"])
        card["mean"], card["std"] = tuple(card["mean"]), tuple(card["std"])
        return Card(**card)
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: has no card; expected a file that the `source` stage wrote") from None


def normalise(
    images: UInt8[Tensor, "batch 3 height width"], card: Card
) -> Float[Tensor, "batch 3 height width"]:
    """Bytes to float32 with the card's mean and standard deviation taken off."""
    mean, std = sent(torch.tensor([card.mean, card.std]), images.device).view(2, 3, 1, 1).unbind()
    return (images.float() / 255 - mean) / std
