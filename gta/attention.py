"""Records the [CLS] row of the scaled attention logits of a ViT's blocks while it runs.

No model is forked and no tokens x tokens map is built: hooks on `q_norm` and `k_norm`, which timm's
attention calls under fused and unfused kernels alike, give the [CLS] query and all keys, whose product
is the one row that is wanted, O(tokens) a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gta.errors import InputError


class LogitRecorder:
    """The logits of the latest forward pass. `rows` maps a block's number to (B, heads, tokens)."""

    def __init__(self) -> None:
        self.rows: dict[int, Tensor] = {}

    def stacked(self) -> Tensor:
        """All recorded rows in order of depth: (layers, B, heads, tokens), float32.

        Raises RuntimeError where nothing was recorded, which means that the model has not run.
        """
        if not self.rows:
            raise RuntimeError("expected a forward pass of the model before its attention is read")
        return torch.stack([self.rows[layer] for layer in sorted(self.rows)]).float()


def depth(model: nn.Module) -> int:
    """The number of attention blocks. Raises InputError where the model has no `blocks[i].attn`."""
    blocks = getattr(model, "blocks", None)
    if blocks is None or not all(hasattr(block, "attn") for block in blocks):
        raise InputError(f"{type(model).__name__}: expected a ViT with `blocks[i].attn`, found none")
    return len(blocks)


def attention_of(model: nn.Module, block: int) -> Any:
    """The attention module of a block."""
    return model.get_submodule(f"blocks.{block}.attn")


def grid_size(model: Any) -> tuple[int, int]:
    """Rows and columns of patches."""
    rows, columns = model.patch_embed.grid_size
    return int(rows), int(columns)


def prefix_tokens(model: Any) -> int:
    """Tokens before the patches: [CLS], distillation, registers."""
    return int(model.num_prefix_tokens)


def check_readable(model: nn.Module) -> None:
    """Raises InputError, with the reason, where the [CLS] row of `model` means nothing or is not had."""
    name, blocks = type(model).__name__, depth(model)
    if getattr(model, "cls_token", None) is None:
        raise InputError(f"{name}: has no [CLS] token, so there is no attention of it to guide")
    pooling = getattr(model, "global_pool", "token")
    if pooling != "token":
        raise InputError(f"{name}: its head reads {pooling!r} pooling, not the [CLS] token")
    if getattr(model, "patch_drop", None) is not None and not isinstance(model.patch_drop, nn.Identity):
        raise InputError(f"{name}: patch dropout breaks the match of source and model tokens; set it to 0")
    for index in range(blocks):
        attn = attention_of(model, index)
        missing = [part for part in ("q_norm", "k_norm", "scale") if not hasattr(attn, part)]
        if missing or "Diff" in type(attn).__name__:
            what = f"lacks {', '.join(missing)}" if missing else "subtracts two attention maps"
            raise InputError(f"{name}: attention of class {type(attn).__name__} is not supported: it {what}")


@contextmanager
def record_cls_logits(model: nn.Module, layers: Iterable[int]) -> Iterator[LogitRecorder]:
    """While the context lasts, every forward pass of `model` records its [CLS] rows, with gradient.

    layers: block numbers from 0. A row is (q_cls * scale) @ k^T as in the block itself: before softmax,
    over all tokens, prefix tokens first. The logits have the precision in which the block computes.
    Gradient checkpointing runs a block again during backward; the first run's row is kept.
    """
    check_readable(model)
    recorder = LogitRecorder()
    handles = [model.register_forward_pre_hook(lambda *_: recorder.rows.clear())]
    for layer in layers:
        handles += _hook_block(attention_of(model, layer), layer, recorder)
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _hook_block(attn: Any, layer: int, recorder: LogitRecorder) -> list[Any]:
    rope: list[Tensor | None] = [None]
    query: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rope[0] = kwargs.get("rope", args[1] if hasattr(attn, "rotate_half") and len(args) > 1 else None)

    def after_query(_: nn.Module, __: Any, q: Tensor) -> None:
        query[:] = [q[:, :, :1]]

    def after_key(_: nn.Module, __: Any, k: Tensor) -> None:
        # computed on recomputation too, which has to save the very tensors that the first pass saved
        recorder.rows.setdefault(layer, _row(attn, query.pop(), k, rope[0]))

    return [
        attn.register_forward_pre_hook(before, with_kwargs=True),
        attn.q_norm.register_forward_hook(after_query),
        attn.k_norm.register_forward_hook(after_key),
    ]


def _row(attn: Any, query: Tensor, k: Tensor, rope: Tensor | None) -> Tensor:
    """query (B, heads, 1, d), k (B, kv heads, N, d) -> (B, heads, N)."""
    if rope is not None:
        from timm.layers import apply_rot_embed_cat  # here: models without rotary positions need no timm

        prefix: int = attn.num_prefix_tokens
        # The [CLS] query is a prefix token, which timm leaves unrotated.
        turned = apply_rot_embed_cat(k[:, :, prefix:], rope, half=bool(getattr(attn, "rotate_half", False)))
        k = torch.cat([k[:, :, :prefix], turned], dim=2).type_as(query)
    groups = query.shape[1] // k.shape[1]
    if groups > 1:
        k = k.repeat_interleave(groups, dim=1)
    scaled: Tensor = query * attn.scale
    return (scaled @ k.transpose(-2, -1)).squeeze(2)
