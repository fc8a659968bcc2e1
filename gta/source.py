"""Turns pretrained weights, from the hub or a file, into the one source file of the pipeline."""

from __future__ import annotations

import hashlib
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gta.attention import layout_of
from gta.errors import InputError
from gta.models import Card, create_timm

if TYPE_CHECKING:
    from gta.params.source import Source


def convert(settings: Source) -> tuple[dict[str, Tensor], Card]:
    """The source's weights in float32 at `image_size`, and its card.

    Weights are loaded strictly: every tensor of the model is in the file, and none is left over. Position
    embeddings of another size are resampled by timm.
    Raises InputError where the file is missing, damaged, has another checksum, or does not fit.
    """
    path = None if settings.weights == "hub" else Path(settings.weights).expanduser()
    if path is not None:
        _verify(path, settings.sha256)
    model = build(settings, pretrained=path is None)
    if path is not None:
        _load_strictly(model, path)
    own: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    card = Card(
        model=settings.model,
        image_size=settings.image_size,
        crop=settings.crop,
        mean=_colour("mean", settings.mean, own),
        std=_colour("std", settings.std, own),
        num_classes=getattr(model, "num_classes", 0),
        origin=f"{own.get('hf_hub_id', 'hub')}" if path is None else path.name,
        licence=str(own.get("license") or "not stated") if path is None else "not stated",
    )
    state = {name: tensor.float() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(
            f"params.yaml: source.weights: {settings.weights}: {broken[0]} holds values that are not finite"
        )
    return state, card


def build(settings: Source, pretrained: bool) -> Any:
    """The model that the section names. Raises InputError where it has no readable [CLS] attention."""
    model: Any = create_timm(settings.model, settings.image_size, pretrained=pretrained)
    patch = int(model.patch_embed.patch_size[0])
    if settings.image_size % patch:
        raise InputError(
            f"params.yaml: source.image_size: expected a multiple of the patch size {patch}, "
            f"got {settings.image_size}"
        )
    layout_of(model)
    return model


def _colour(key: str, given: list[float] | None, own: dict[str, Any]) -> tuple[float, float, float]:
    values = given or own.get(key)
    if values is None:
        raise InputError(
            f"params.yaml: source.{key}: expected three numbers, as the model does not state its own"
        )
    red, green, blue = values
    return float(red), float(green), float(blue)


def _verify(path: Path, expected: str | None) -> None:
    if not path.is_file():
        raise InputError(
            f"params.yaml: source.weights: {path}: no such file; expected 'hub' or the path of a weights file"
        )
    if expected is not None:
        with path.open("rb") as stored:
            actual = hashlib.file_digest(stored, "sha256").hexdigest()
        if actual != expected:
            raise InputError(f"params.yaml: source.weights: {path}: expected sha256 {expected}, got {actual}")


def _load_strictly(model: nn.Module, path: Path) -> None:
    state: dict[str, Any]
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"params.yaml: source.weights: {path}: cannot be loaded as weights alone: {reason}"
        ) from None
    for key in ("state_dict", "model"):
        nested = state.get(key)
        if isinstance(nested, dict):
            state = nested
    convert_keys = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert_keys is not None:  # timm's own: old names of keys, position embeddings of another size
        state = convert_keys(state, model)
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"params.yaml: source.weights: {path}: does not fit {type(model).__name__}: {reason}"
        ) from None
