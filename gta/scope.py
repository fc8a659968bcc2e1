"""What of a model is trained: its head, its last block, low-rank additions (LoRA), or all of it."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from gta.errors import InputError

HEAD = r"head(_dist)?\."
LAST = r"|(fc_)?norm\.|blocks\.{last}\."


def restrict(model: Any, scope: str | None, lora: Any, example: Tensor) -> None:
    """Freezes all but what `scope` trains, in place; for `lora` wraps the layers that `lora.targets` names.

    example: images (1, 3, H, W) on the model's device, run once to see that every added layer takes part.
    Raises InputError where a target is not in the model, or the model goes past it.
    """
    if scope is None:
        return
    pattern = HEAD + (LAST.format(last=len(model.blocks) - 1) if scope == "lastblock" else "")
    if scope == "lora":
        _add_lora(model, lora, example)
        pattern = HEAD + r"|.*\.lora_"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(re.match(pattern, name) is not None)


def _add_lora(model: nn.Module, lora: Any, example: Tensor) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # here: it takes seconds, and only LoRA needs it
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets)
    )
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise InputError(f"params.yaml: finetune.lora.targets: {' '.join(str(error).split())}") from None
    names = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    added = {name: model.get_submodule(name) for name in names}
    ran: set[nn.Module] = set()
    handles = [module.register_forward_pre_hook(lambda this, _: ran.add(this)) for module in added.values()]
    was_training = model.training
    model.eval()(example)
    model.train(was_training)
    for handle in handles:
        handle.remove()
    if idle := [name for name, module in added.items() if module not in ran]:
        raise InputError(
            f"params.yaml: finetune.lora.targets: {type(model).__name__} uses the weights of {idle[0]} "
            "without calling it, so LoRA would change nothing there; leave it out"
        )


def merge(model: nn.Module) -> None:
    """Adds the trained low-rank products to the layers' own weights, in place: a plain model again."""
    wrapped = [(name, module) for name, module in model.named_modules() if hasattr(module, "get_base_layer")]
    for name, module in wrapped:
        module.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())
    model.requires_grad_(True)
