"""How each attention class gives its queries and keys: one reader a kind, for exactly the classes known.

timm's attention calls its `q_norm` and `k_norm` under fused and unfused kernels alike, so that hooks on the
two see what goes into the product. Where a class has no such modules, queries and keys come from hooks on
its two projections, or are projected again from its input. A class that is not listed is refused: one that
merely looks alike, such as differential attention, would be read wrongly and nobody would notice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, cat, compiler, eye, nn

from gta.errors import InputError

Keep = Callable[[Tensor], None]
"""Receives scaled logits (B, heads, rows, tokens) of the attention that runs."""
Handles = list[Any]
Read = Callable[[Any, Keep, bool], Handles]
"""(attention module, where the logits go, every row or [CLS]'s alone) -> handles of the hooks."""


class Reader(NamedTuple):
    """How a class is read."""

    read: Read
    heads: str
    """Name of the attribute that holds the number of heads."""


def reader_of(attn: nn.Module) -> Reader | None:
    """The reader of exactly this class, None where there is none."""
    return READERS.get(class_name(attn))


def class_name(module: nn.Module) -> str:
    """Full name of its class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _after_norms(
    attn: Any, keep: Keep, every_row: bool, tokens_first: bool = False, projected: bool = False
) -> Handles:
    """timm's classes that call `q_norm` and `k_norm`; rotary and relative positions are added here.

    tokens_first: the norms see (B, N, heads, d), not (B, heads, N, d). projected: what they see are parts of
    what `qkv` gives. torch.compile is shown the row in those, where the norms do nothing: their gradient is
    then one pass, where that of what the norms see is a pass and a copy in another order.
    """
    position: list[Tensor | None] = [None]
    query: list[Tensor] = []
    projection = attn.qkv if projected and not every_row else None
    at_projection = [False]
    """Whether this pass is read there."""

    def seen_by_compiler() -> bool:
        if projection is None or attn.qkv is not projection or not compiler.is_compiling():
            return False
        norms = (attn.q_norm, attn.k_norm)
        return all(type(norm) is nn.Identity and len(norm._forward_hooks) == 1 for norm in norms)  # ours

    def before(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        _refuse_masks(attn, options)
        at_projection[0] = seen_by_compiler()
        name = "rope" if hasattr(attn, "rotate_half") else "shared_rel_pos"
        takes = name == "rope" or hasattr(attn, "rel_pos")
        position[0] = options.get(name, args[1] if takes and len(args) > 1 else None)
        if not takes and len(args) > 1 and args[1] is not None:
            _refuse_masks(attn, {"attn_mask": args[1]})

    def after_projection(_: nn.Module, __: Any, qkv: Tensor) -> Tensor | None:
        if not at_projection[0]:
            return None
        parts = qkv.view(*qkv.shape[:2], 3, attn.num_heads, -1)
        q, k = parts[:, :1, 0].transpose(1, 2), parts[:, :, 1].transpose(1, 2)
        keep(_product(q, k, attn.scale))
        return parts.flatten(2)

    def after_query(_: nn.Module, __: Any, q: Tensor) -> None:
        if at_projection[0]:
            return
        q = q.transpose(1, 2) if tokens_first else q
        query[:] = [q if every_row else q[:, :, :1]]

    def after_key(_: nn.Module, __: Any, k: Tensor) -> None:
        if at_projection[0]:
            return
        k = k.transpose(1, 2) if tokens_first else k
        # computed on recomputation too, which has to save the very tensors that the first pass saved
        q, where = query.pop(), position[0]
        if hasattr(attn, "rotate_half"):
            if where is not None:
                q, k = _rotate(attn, q, where), _rotate(attn, k, where).type_as(q)
            keep(_product(q, k, attn.scale))
            return
        own = getattr(attn, "rel_pos", None)
        bias = own.get_bias() if own is not None else where
        keep(_product(q, k, attn.scale, bias))

    return [
        attn.register_forward_pre_hook(before, with_kwargs=True),
        *([] if projection is None else [projection.register_forward_hook(after_projection)]),
        attn.q_norm.register_forward_hook(after_query),
        attn.k_norm.register_forward_hook(after_key),
    ]


def _from_beits_input(attn: Any, keep: Keep, every_row: bool) -> Handles:
    """timm's BEiT, whose projection and bias are no modules: projected again from the block's input."""

    def before(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        shared = options.get("shared_rel_pos_bias", args[1] if len(args) > 1 else None)
        biases = [attn.q_bias, attn.k_bias] if attn.q_bias is not None else [None, None]
        weights = attn.qkv.weight.chunk(3)[:2]
        own = attn._get_rel_pos_bias() if attn.relative_position_bias_table is not None else None
        bias = shared if own is None else own if shared is None else own + shared
        q, k = _projected(args[0], weights, biases, attn.num_heads, every_row)
        keep(_product(q, k, attn.scale, bias))

    return [attn.register_forward_pre_hook(before, with_kwargs=True)]


def _from_torchs_input(attn: Any, keep: Keep, every_row: bool) -> Handles:
    """torch's MultiheadAttention, as in torchvision's ViT: projected again from the block's input."""
    if not attn.batch_first or attn.in_proj_weight is None or attn.bias_k is not None:
        raise InputError(
            "MultiheadAttention: expected batch_first and one projection, as in torchvision's ViT"
        )

    def before(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        _refuse_masks(attn, options)
        weights = attn.in_proj_weight.chunk(3)[:2]
        biases = [None, None] if attn.in_proj_bias is None else list(attn.in_proj_bias.chunk(3)[:2])
        q, k = _projected(args[0], weights, biases, attn.num_heads, every_row)
        keep(_product(q, k, attn.head_dim**-0.5))

    return [attn.register_forward_pre_hook(before, with_kwargs=True)]


def _after_projections(attn: Any, keep: Keep, every_row: bool) -> Handles:
    """Hugging Face's ViT, DeiT and DINOv2: hooks on the projections, which eager and SDPA share."""
    heads: int = attn.num_attention_heads
    query: list[Tensor] = []

    def after_query(_: nn.Module, __: Any, q: Tensor) -> None:
        query[:] = [_split(q if every_row else q[:, :1], heads)]

    def after_key(_: nn.Module, __: Any, k: Tensor) -> None:
        keep(_product(query.pop(), _split(k, heads), attn.scaling))

    return [attn.q_proj.register_forward_hook(after_query), attn.k_proj.register_forward_hook(after_key)]


def _refuse_masks(attn: nn.Module, options: dict[str, Any]) -> None:
    for name in ("attn_mask", "key_padding_mask", "is_causal"):
        value = options.get(name)
        if value is not None and value is not False:
            raise InputError(f"{type(attn).__name__}: expected attention over all tokens, got {name}")


def _split(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, heads * d) -> (B, heads, N, d)."""
    return tokens.view(*tokens.shape[:2], heads, -1).transpose(1, 2)


def _projected(
    tokens: Tensor, weights: Any, biases: list[Tensor | None], heads: int, every_row: bool
) -> tuple[Tensor, Tensor]:
    """Queries (of [CLS] alone, or of all) and keys of tokens (B, N, D): (B, heads, rows, d), (B, heads, N,
    d)."""
    rows = tokens if every_row else tokens[:, :1]
    q, k = F.linear(rows, weights[0], biases[0]), F.linear(tokens, weights[1], biases[1])
    return _split(q, heads), _split(k, heads)


def _rotate(attn: Any, tokens: Tensor, rope: Tensor) -> Tensor:
    """Rotary positions of the tokens (B, heads, N, d) after the prefix, which timm leaves unrotated."""
    from timm.layers import apply_rot_embed_cat  # here: models without rotary positions need no timm

    prefix: int = attn.num_prefix_tokens
    if tokens.shape[2] <= prefix:
        return tokens
    half = bool(attn.rotate_half)
    turned = apply_rot_embed_cat(tokens[:, :, prefix:], rope, half=half)
    return cat([tokens[:, :, :prefix], turned], dim=2).type_as(tokens)


def _product(q: Tensor, k: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """q (B, heads, rows, d), k (B, kv heads, N, d), bias of all rows -> logits (B, heads, rows, N)."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k = k.repeat_interleave(groups, dim=1)
    q = q * scale
    logits = _row(q, k) if q.shape[2] == 1 else q @ k.transpose(-2, -1)
    return logits if bias is None else logits + bias[..., : q.shape[2], :]


def _row(q: Tensor, k: Tensor) -> Tensor:
    """The product with one query a head, in the way that costs least.

    On a GPU the keys are multiplied as they lie in memory, all heads side by side, with the queries on a
    block diagonal: a product head by head copies them first. Its columns are filled up to a multiple of 8,
    as of other numbers slower kernels run. On a CPU the copy is made up for by its gradient, which lies as
    the attention's own does. In torch.compile it is a sum, whose gradient melts into that of the keys.
    """
    if compiler.is_compiling():
        return (q * k).sum(-1).unsqueeze(2)
    if not k.is_cuda:
        return q @ k.transpose(-2, -1)
    heads = k.shape[1]
    own = eye(heads, -(-heads // 8) * 8, dtype=q.dtype, device=q.device).unsqueeze(1)  # (heads, 1, columns)
    diagonal = (q.transpose(2, 3) * own).flatten(1, 2)  # (B, heads * d, columns)
    return (k.transpose(1, 2).flatten(2) @ diagonal)[..., :heads].transpose(1, 2).unsqueeze(2)


ATTENTION = "timm.layers.attention.Attention"
READERS = {
    ATTENTION: Reader(partial(_after_norms, projected=True), "num_heads"),
    "timm.layers.attention.AttentionRope": Reader(_after_norms, "num_heads"),
    "timm.models.eva.EvaAttention": Reader(_after_norms, "num_heads"),
    "timm.models.vision_transformer.ParallelScalingBlock": Reader(
        partial(_after_norms, tokens_first=True), "num_heads"
    ),
    "timm.models.vision_transformer_relpos.RelPosAttention": Reader(_after_norms, "num_heads"),
    "timm.models.beit.Attention": Reader(_from_beits_input, "num_heads"),
    "torch.nn.modules.activation.MultiheadAttention": Reader(_from_torchs_input, "num_heads"),
    "transformers.models.vit.modeling_vit.ViTAttention": Reader(_after_projections, "num_attention_heads"),
    "transformers.models.deit.modeling_deit.DeiTAttention": Reader(_after_projections, "num_attention_heads"),
    "transformers.models.dinov2.modeling_dinov2.Dinov2Attention": Reader(
        _after_projections, "num_attention_heads"
    ),
    "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersAttention": (
        Reader(_after_projections, "num_attention_heads")
    ),
}
"""Full name of an attention class -> how it is read."""
UNREADABLE = {
    "timm.layers.diff_attention.DiffAttention": "subtracts two attention maps",
    "timm.models.vision_transformer.DiffParallelScalingBlock": "subtracts two attention maps",
    "timm.models.vision_transformer.ParallelThingsBlock": "has several attentions side by side",
    "timm.models.cait.TalkingHeadAttn": "mixes the heads before softmax",
    "timm.models.convit.GPSA": "blends its softmax with a map of positions",
    "timm.models.tnt.Block": "has an attention within patches beside that between them",
    "timm.models.xcit.XCA": "attends among channels, not tokens",
}
"""Full name of an attention class -> why it has no reader."""
