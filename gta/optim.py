"""The optimiser's parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gta.attention import layout_of

if TYPE_CHECKING:
    from gta.params.finetune import Finetune


def parameter_groups(model: nn.Module, settings: Finetune, weight_decay: float) -> list[dict[str, Any]]:
    """Groups with `lr_scale` (head_lr_scale for the head, layer_decay^(blocks above) below) and `decay`.

    Vectors, position embeddings and prefix tokens have no weight decay.
    """
    blocks = len(layout_of(model).attentions)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if re.match(r"head(_dist)?\.", name):
            scale = settings.head_lr_scale
        else:
            scale = _layer_scale(name, blocks, settings)
            scale *= settings.lora.lr_scale if ".lora_" in name else 1.0
        plain = parameter.ndim <= 1 or name.endswith(("pos_embed", "_token", "reg_token"))
        decay = 0.0 if plain else weight_decay
        group = groups.setdefault(
            (scale, decay),
            {"params": [], "lr": settings.lr * scale, "lr_scale": scale, "weight_decay": decay},
        )
        group["params"].append(parameter)
    return list(groups.values())


def _layer_scale(name: str, blocks: int, settings: Finetune) -> float:
    block = re.match(r"blocks\.(\d+)\.", name)
    if block:
        above = blocks - 1 - int(block.group(1))
    else:
        above = 0 if name.startswith(("norm.", "fc_norm.")) else blocks
    return float(settings.layer_decay**above)


def build_optimizer(model: nn.Module, penalties: nn.Module, settings: Finetune) -> torch.optim.Optimizer:
    """AdamW (second beta 0.999) or SGD with Nesterov momentum, over the groups above.

    What the penalties train, such as a projection, has the head's learning rate. There is no weight decay
    where a penalty stands in for it.
    """
    replaced = any(getattr(penalty, "replaces_decay", False) for penalty in penalties.children())
    weight_decay = 0.0 if replaced else settings.weight_decay
    groups = parameter_groups(model, settings, weight_decay)
    own = [parameter for parameter in penalties.parameters() if parameter.requires_grad]
    if own:
        scale = settings.head_lr_scale
        groups.append(
            {
                "params": own,
                "lr": settings.lr * scale,
                "lr_scale": scale,
                "weight_decay": weight_decay,
            }
        )
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999), fused=True)
    nesterov = settings.momentum > 0
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)


def lr_at(step: int, steps: int, warmup: float) -> float:
    """The share of the highest learning rate at `step` of `steps`: linear rise, then a cosine to 0."""
    rise = round(steps * warmup)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every group `lr` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
