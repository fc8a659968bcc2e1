"""Turns pretrained weights, from the hub or a file, into the one source file of the pipeline."""

from __future__ import annotations

import hashlib
import pickle
import re
import sys
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from gta.attention import layout_of
from gta.errors import InputError
from gta.fetch import fetch
from gta.models import Card, create_timm

if TYPE_CHECKING:
    from gta.params.source import Source


LONGEST = 300
"""Characters of torch's list of tensors that do not fit."""


def from_mocov3(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """The encoder of a MoCo v3 checkpoint (Chen, Xie, He, 2021, arXiv 2104.02057), without its projection
    head."""
    encoder = _below(state, "module.base_encoder.")
    if not encoder:
        raise _layout_error(path, "mocov3", "module.base_encoder.*", state)
    return {name: tensor for name, tensor in encoder.items() if not name.startswith("head.")}


def from_ibot(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """The backbone of an iBOT checkpoint (Zhou et al., 2021, arXiv 2111.07832), without what only masks
    need."""
    backbone = _below(state, "backbone.") or state
    if "cls_token" not in backbone:
        raise _layout_error(path, "ibot", "cls_token", state)
    return {name: tensor for name, tensor in backbone.items() if name != "masked_embed"}


def _below(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _layout_error(path: Path, layout: str, wanted: str, state: dict[str, Any]) -> InputError:
    found = ", ".join(sorted(map(str, state))[:3]) or "nothing"
    return InputError(
        f"params.yaml: source.layout: {path}: expected {wanted} in a checkpoint of layout {layout!r}, "
        f"found {found}"
    )


LAYOUTS = {"mocov3": from_mocov3, "ibot": from_ibot}
"""Original checkpoints that are not in timm, by `source.layout`."""
ORIGINAL: dict[str, Any] = {"crop_pct": 0.875, "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
"""How the models of those checkpoints were shown images."""
ADAPTED = "; its head read the patches, and now reads [CLS] after the same norm"


def convert(settings: Source, downloads: Path) -> tuple[dict[str, Tensor], Card]:
    """The source's weights in float32 at `image_size`, and its card.

    Weights are loaded strictly: every tensor of the model is in the file, and none is left over. Position
    embeddings of another size are resampled by timm. Where the pretrained model averages its patches, or
    pools them by attention, its head is made to read [CLS] instead. downloads: folder that keeps files
    which were fetched from an address. Raises InputError where the file is missing, damaged, has another
    checksum, or does not fit.
    """
    path = None if settings.weights == "hub" else _file(settings, downloads)
    options = _options(settings)
    own = create_timm(settings.model, _size(settings), pool=None, pretrained=path is None, **options)
    model, adapted = reading_cls(own, settings)
    if path is not None:
        _load_strictly(own, path, settings)
        _check_heads(model, path)
    if adapted:
        _move_norm(own.state_dict(), model, settings.model)
    about = ORIGINAL if settings.layout != "timm" else model.pretrained_cfg
    origin = f"{about.get('hf_hub_id', 'hub')}" if path is None else path.name
    card = Card(
        model=settings.model,
        options=options,
        image_size=_size(settings),
        crop=settings.crop if settings.crop is not None else float(about.get("crop_pct") or 1.0),
        mean=_colour("mean", settings.mean, about),
        std=_colour("std", settings.std, about),
        num_classes=getattr(model, "num_classes", 0),
        origin=origin + (ADAPTED if adapted else ""),
        licence=str(about.get("license") or "not stated") if path is None else "not stated",
    )
    state = {name: tensor.float() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(
            f"params.yaml: source.weights: {settings.weights}: {broken[0]} holds values that are not finite"
        )
    return state, card


def build(settings: Source) -> Any:
    """The model that the section names, with random weights; its head reads [CLS].

    Raises InputError where it has no readable [CLS] attention.
    """
    own = create_timm(settings.model, _size(settings), pool=None, **_options(settings))
    return reading_cls(own, settings)[0]


def reading_cls(own: Any, settings: Source) -> tuple[Any, bool]:
    """The model itself, or where its head reads the patches one that reads [CLS], without the classifier,
    which was taught on other features; and whether that was so.

    Raises InputError where there is no readable [CLS] attention.
    """
    size = _size(settings)
    adapted = own.global_pool != "token" if hasattr(own, "global_pool") else False
    model: Any = own
    if adapted:
        options = {**_options(settings), "num_classes": 0}
        model = create_timm(settings.model, size, **options)
    layout_of(model)
    patch = int(model.patch_embed.patch_size[0])
    if size % patch:
        raise InputError(
            f"params.yaml: source.image_size: expected a multiple of the patch size {patch}, got {size}"
        )
    return model, adapted


def _size(settings: Source) -> int:
    """`image_size`, or the model's own."""
    if settings.image_size is not None:
        return settings.image_size
    about = timm.get_pretrained_cfg(settings.model)
    if about is None:
        raise InputError(
            "params.yaml: source.image_size: expected a number, as the model does not state its own"
        )
    return int(about.input_size[-1])


def _options(settings: Source) -> dict[str, Any]:
    """What timm has to be told besides the name. Checkpoints in other layouts have no classifier.

    MoCo v3's ViT-S has 12 heads where timm's has 6: the weights have the same shapes, and would be loaded
    into 6 heads without a word.
    """
    if settings.layout == "timm":
        return {}
    small = settings.layout == "mocov3" and settings.model.startswith("vit_small")
    return {"num_classes": 0} | ({"num_heads": 12} if small else {})


def _move_norm(state: dict[str, Tensor], model: nn.Module, name: str) -> None:
    """Loads the weights of a model that pools its patches into one that reads [CLS]."""
    wanted = model.state_dict()
    moved = {
        key.replace("fc_norm.", "norm.") if key.startswith("fc_norm.") and key not in wanted else key: tensor
        for key, tensor in state.items()
        if not key.startswith(("attn_pool.", "head."))
    }
    try:
        model.load_state_dict(moved)
    except RuntimeError as error:
        raise InputError(
            f"params.yaml: source.model: {name!r}: its head cannot be made to read [CLS]: "
            f"{' '.join(str(error).split())}"
        ) from None


def _colour(key: str, given: list[float] | None, own: dict[str, Any]) -> tuple[float, float, float]:
    values = given or own.get(key)
    if values is None:
        raise InputError(
            f"params.yaml: source.{key}: expected three numbers, as the model does not state its own"
        )
    red, green, blue = values
    return float(red), float(green), float(blue)


def _file(settings: Source, downloads: Path) -> Path:
    """The weights file, verified."""
    if settings.weights.startswith(("http://", "https://")):
        name = Path(urlsplit(settings.weights).path).name or "weights"
        place = hashlib.sha256(settings.weights.encode()).hexdigest()[:12]  # many files have one name
        checksum = None if settings.sha256 is None else f"sha256:{settings.sha256}"
        return fetch(name, [settings.weights], checksum, downloads / "weights" / place)
    path = Path(settings.weights).expanduser()
    if not path.is_file():
        raise InputError(
            f"params.yaml: source.weights: {path}: no such file; expected 'hub', an address, or the path "
            "of a weights file"
        )
    if settings.sha256 is not None:
        with path.open("rb") as stored:
            actual = hashlib.file_digest(stored, "sha256").hexdigest()
        if actual != settings.sha256:
            raise InputError(
                f"params.yaml: source.weights: {path}: expected sha256 {settings.sha256}, got {actual}"
            )
    return path


def _check_heads(model: Any, path: Path) -> None:
    """Raises InputError where a file that this project wrote says that it has other heads: the shapes of its
    tensors do not tell."""
    if path.suffix != ".safetensors":
        return
    with safe_open(path, "pt") as stored:
        about = (stored.metadata() or {}).get("card", "")
    said = re.search(r'"num_heads": (\d+)', about)
    heads = layout_of(model).heads[0]
    if said and int(said[1]) != heads:
        raise InputError(
            f"params.yaml: source.weights: {path}: has {said[1]} heads, expected the {heads} of source.model"
        )


def _load_strictly(model: nn.Module, path: Path, settings: Source) -> None:
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
        nested = state.get(key) if isinstance(state, dict) else None
        if isinstance(nested, dict):
            state = nested
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        found = ", ".join(map(str, list(state)[:3])) if isinstance(state, dict) else type(state).__name__
        raise InputError(
            f"params.yaml: source.weights: {path}: expected tensors by name, or `state_dict` or `model` that "
            f"holds them; found {found or 'nothing'}"
        )
    if settings.layout != "timm":
        state = LAYOUTS[settings.layout](state, path)
    convert_keys = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert_keys is not None:  # timm's own: old names of keys, position embeddings of another size
        state = convert_keys(state, model)
    try:
        model.load_state_dict(
            {name: value.float() if isinstance(value, Tensor) else value for name, value in state.items()}
        )
    except RuntimeError as error:
        reason, *others = str(error).splitlines()[1:]
        more = f"; {len(others)} more such lines" if others else ""
        raise InputError(
            f"params.yaml: source.weights: {path}: does not fit {settings.model}: "
            f"{shorten(reason, LONGEST)}{more}"
        ) from None
