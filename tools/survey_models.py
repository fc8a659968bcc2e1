"""Compares the recorded [CLS] row with the eager softmax in every timm ViT that has a [CLS] token.

    python -m tools.survey_models          # writes docs/models.md; about five minutes on two cores

Every configuration of timm's ViT modules is built with a head that reads [CLS], at its own image size,
width, heads and positions, two blocks deep, with random weights that make attention uneven. Its logits are
recorded under the fused kernels and compared, after softmax, with the map that the block itself builds when
it is not fused. The other outcome is a refusal and its reason; a third one is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models import is_model_in_modules
from torch import Tensor, nn
from tqdm import tqdm

from gta.attention import layout_of, record_logits
from gta.errors import InputError

MODULES = [
    "beit",
    "cait",
    "convit",
    "deit",
    "eva",
    "mvitv2",
    "naflexvit",
    "pit",
    "tnt",
    "vision_transformer",
    "vision_transformer_hybrid",
    "vision_transformer_relpos",
    "volo",
    "xcit",
]
"""Those of timm's modules that have models with a [CLS] token."""
TOLERANCE = 1e-5
"""Largest difference of two probabilities that float32 and another order of sums explain."""
UNEVEN = 0.3
"""Least standard deviation of a row's logits: an even map would hide a wrong reading."""


class Finding(NamedTuple):
    """What became of a model: either `refusal` is None, or all between `name` and it."""

    name: str
    attention: str = ""
    """Class of the attention, below timm."""
    heads: int = 0
    prefix: int = 0
    """Tokens before the patches."""
    tokens: int = 0
    error: float = 0.0
    """Largest difference of two probabilities."""
    spread: float = 0.0
    """Standard deviation of a row's logits, mean over rows."""
    refusal: str | None = None


def names() -> list[str]:
    """timm's ViTs with a [CLS] token."""
    found = []
    for name in timm.list_models():
        if is_model_in_modules(name, MODULES):
            with torch.device("meta"):
                parameters = timm.create_model(name).named_parameters()
            if any(key.endswith("cls_token") for key, _ in parameters):
                found.append(name)
    return found


def survey(name: str, **options: Any) -> Finding:
    """Builds a model and compares. options: to timm.create_model, such as another `img_size`."""
    try:
        with torch.device("meta"):
            full = layout_of(timm.create_model(name, global_pool="token"))
    except InputError as error:
        return Finding(name, refusal=str(error))
    shared = sorted({getattr(attn, "num_kv_heads", 0) for attn in full.attentions})
    if shared != [0]:  # some models give them block by block: one of each kind
        options["num_kv_heads"] = shared[0] if len(shared) == 1 else shared[:2]
    torch.manual_seed(0)
    model: Any = timm.create_model(name, global_pool="token", depth=2, **options).eval()
    unsettle(model)
    layout = layout_of(model)
    images = torch.randn(1, 3, *model.patch_embed.img_size)
    with torch.no_grad():
        with record_logits(model, [0, 1]) as recorder:
            model(images)
        logits = recorder.stacked()
        expected = eager_rows(model, layout.attentions, images)
    kind = type(layout.attentions[0])
    return Finding(
        name,
        f"{kind.__module__.removeprefix('timm.')}.{kind.__name__}",
        layout.heads[0],
        layout.prefix,
        logits.shape[-1],
        float((logits.softmax(-1) - expected).abs().max()),
        float(logits.std(-1).mean()),
    )


@torch.no_grad()
def unsettle(model: nn.Module) -> None:
    """Weights far from their start, where queries are small, biases and relative positions zero."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=1.5 * parameter[0].numel() ** -0.5)
        else:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)


def eager_rows(model: nn.Module, attentions: list[Any], images: Tensor) -> Tensor:
    """The [CLS] rows of the maps that the blocks build themselves: (layers, 1, heads, tokens)."""
    maps: list[Tensor] = []
    handles = []
    for attn in attentions:
        attn.fused_attn = False
        keep = attn.attn_drop.register_forward_pre_hook(lambda _, args: maps.append(args[0][:, :, 0]))
        handles.append(keep)
    model(images)
    for handle in handles:
        handle.remove()
    return torch.stack(maps)


def faults(findings: list[Finding]) -> list[str]:
    """The models that were neither read rightly nor refused."""
    read = [finding for finding in findings if finding.refusal is None]
    return [found.name for found in read if not (found.error < TOLERANCE and found.spread > UNEVEN)]


def as_markdown(findings: list[Finding]) -> str:
    read = [found for found in findings if found.refusal is None]
    refused = [found for found in findings if found.refusal is not None]
    return f"""# timm's Vision Transformers with a [CLS] token

Written by `tools/survey_models.py` with timm {version("timm")}, torch {version("torch").partition("+")[0]},
float32 on a CPU: {len(findings)} configurations, {len(read)} read, {len(refused)} refused.

## Read

Error: the largest difference of a probability in the [CLS] row between the recorded logits, after softmax,
and the block's own eager map; two blocks, at the model's own image size, width and heads. Spread: the
standard deviation of a row's logits, which tells that the map was not even.

| model | attention | heads | prefix tokens | tokens | error | spread |
|:--|:--|--:|--:|--:|--:|--:|
{table((f.name, f.attention, f.heads, f.prefix, f.tokens, f"{f.error:.0e}", f"{f.spread:.1f}") for f in read)}

## Refused

| model | reason |
|:--|:--|
{table((found.name, found.refusal) for found in refused)}
"""


def table(rows: Iterable[tuple[object, ...]]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def main() -> None:
    findings = [survey(name) for name in tqdm(names(), disable=None)]
    if wrong := faults(findings):
        sys.exit(f"read wrongly: {', '.join(wrong)}")
    Path("docs/models.md").write_text(as_markdown(findings), encoding="utf-8")


if __name__ == "__main__":
    main()
