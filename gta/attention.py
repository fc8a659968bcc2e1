"""Records the scaled attention logits of a ViT's blocks while it runs: the [CLS] row, or all rows.

No model is forked, and for the [CLS] row no tokens x tokens map is built: hooks give the [CLS] query and
all keys (gta.readers), whose product is the one row that is wanted, O(tokens) a head. Works for timm's ViTs
with a [CLS] token, torchvision's VisionTransformer and Hugging Face's ViT, DeiT and DINOv2, also within
DistributedDataParallel and torch.compile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gta.errors import InputError
from gta.readers import UNREADABLE, Handles, class_name, reader_of

Rows = Literal["cls", "all"]

HUGGING_FACE = {"vit": 1, "deit": 2, "dinov2": 1, "dinov2_with_registers": 1}
"""Model type -> prefix tokens, registers not counted."""


class Layout(NamedTuple):
    """Where a model's attention is, and what its tokens are."""

    attentions: list[nn.Module]
    """The attention module of each block, in order of depth."""
    heads: list[int]
    """Of each block."""
    prefix: int
    """Tokens before the patches: [CLS] first, then distillation and registers."""
    grid: tuple[int, int]
    """Rows and columns of patches."""


def layout_of(model: nn.Module) -> Layout:
    """The layout. Raises InputError, with the reason, where the [CLS] row means nothing or cannot be had."""
    model = unwrapped(model)
    name = type(model).__name__
    if type(model).__module__ == "torchvision.models.vision_transformer":
        attentions, prefix, grid = _of_torchvision(model)
    elif hasattr(model, "config") and hasattr(model.config, "model_type"):
        attentions, prefix, grid = _of_hugging_face(model)
    else:
        attentions, prefix, grid = _of_timm(model)
    heads = []
    for attn in attentions:
        reader = reader_of(attn)
        if reader is None:
            raise InputError(f"{name}: {_why_not(attn)}")
        heads.append(int(getattr(attn, reader.heads)))
    return Layout(attentions, heads, prefix, grid)


def unwrapped(model: Any) -> nn.Module:
    """The model itself, out of DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            found: nn.Module = model
            return found
        model = inner


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has it, or what DistributedDataParallel holds, wrapped or in place."""
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return hasattr(inner, "_orig_mod") or unwrapped(inner)._compiled_call_impl is not None


def _of_timm(model: Any) -> tuple[list[nn.Module], int, tuple[int, int]]:
    name, blocks = type(model).__name__, getattr(model, "blocks", None)
    if blocks is None or not len(blocks):
        raise InputError(
            f"{name}: expected a ViT with one sequence of blocks, `blocks[i]`, over the same tokens, "
            "found none"
        )
    if hasattr(model, "embeds"):
        raise InputError(f"{name}: the number of tokens is each image's own, so there is no grid to match")
    if getattr(model, "cls_token", None) is None:
        raise InputError(f"{name}: has no [CLS] token at its input, so there is no attention of it to guide")
    pooling = getattr(model, "global_pool", "token")
    if pooling != "token":
        raise InputError(f"{name}: its head reads {pooling!r} pooling, not the [CLS] token")
    dropout = getattr(model, "patch_drop", None)
    if dropout is not None and not isinstance(dropout, nn.Identity):
        raise InputError(f"{name}: patch dropout breaks the match of source and model tokens; set it to 0")
    attentions = [getattr(block, "attn", block) for block in blocks]
    for attn in attentions:
        if reader_of(attn) is None:
            raise InputError(f"{name}: {_why_not(attn)}")
    rows, columns = model.patch_embed.grid_size
    return attentions, int(model.num_prefix_tokens), (int(rows), int(columns))


def _of_torchvision(model: Any) -> tuple[list[nn.Module], int, tuple[int, int]]:
    side = model.image_size // model.patch_size
    return [block.self_attention for block in model.encoder.layers], 1, (side, side)


def _of_hugging_face(model: Any) -> tuple[list[nn.Module], int, tuple[int, int]]:
    kind, config = model.config.model_type, model.config
    if kind not in HUGGING_FACE:
        raise InputError(
            f"{type(model).__name__}: models of type {kind!r} are not supported; of Hugging Face's, "
            f"{', '.join(HUGGING_FACE)} are; the same weights may exist for timm"
        )
    attentions = [module for module in model.modules() if reader_of(module) is not None]
    if not attentions or not hasattr(attentions[0], "q_proj"):
        raise InputError(f"{type(model).__name__}: expected the classes of transformers 5 or newer")
    side = config.image_size // config.patch_size
    return attentions, HUGGING_FACE[kind] + int(getattr(config, "num_register_tokens", 0)), (side, side)


def _why_not(attn: nn.Module) -> str:
    name = class_name(attn)
    reason = UNREADABLE.get(name, "is not among those that can be read")
    return f"attention of class {name} is not supported: it {reason}"


class Enough(Exception):  # noqa: N818 not an error
    """Ends a forward pass of which nothing more is read."""


class LogitRecorder:
    """The logits of the latest forward pass. `rows` maps a block's number to (B, heads, tokens), or to
    (B, heads, tokens, tokens) where all rows are recorded."""

    def __init__(self, layers: Iterable[int] = ()) -> None:
        self.layers = list(layers)
        self.rows: dict[int, Tensor] = {}
        self.with_gradient = False
        self.fellows: Sequence[LogitRecorder] = ()
        """Where these, itself among them, are all that is read of the model: once they are full, it stops."""

    def start(self, *_: object) -> None:
        """Before a forward pass."""
        self.rows = {}  # cleared, what torch.compile made of an empty one would not fit the next pass
        self.with_gradient = torch.is_grad_enabled()

    def keep(self, layer: int, logits: Tensor) -> None:
        """What a block computes in the pass. Raises Enough, see `fellows`."""
        if layer not in self.rows:
            self.rows[layer] = logits
        if self.fellows and all(len(each.rows) == len(each.layers) for each in self.fellows):
            raise Enough

    def stacked(self) -> Tensor:
        """All recorded rows in order of depth, float32: (layers, B, heads, tokens), or with one more axis.

        Raises RuntimeError where nothing was recorded, which means that the model has not run.
        """
        if not self.rows:
            raise RuntimeError("expected a forward pass of the model before its attention is read")
        return torch.stack([self.rows[layer] for layer in sorted(self.rows)]).float()


@contextmanager
def record_logits(model: nn.Module, layers: Iterable[int], rows: Rows = "cls") -> Iterator[LogitRecorder]:
    """While the context lasts, every forward pass of `model` records attention logits, with gradient.

    layers: block numbers from 0; rows: the [CLS] row alone, or `all`. Logits are q k^T * scale, plus a
    relative position bias where the class has one, as in the block itself: before softmax, over all tokens,
    prefix tokens first, in the precision in which the block computes. Gradient checkpointing runs a block
    again during backward; the first run's rows are kept, and that run has to be one with gradient
    (`use_reentrant=False`). Raises InputError where it is not, and where the model cannot be read, see
    `layout_of`. A model is to be compiled before, not while the context lasts.
    """
    attentions = layout_of(model).attentions
    if is_compiled(model) and torch._dynamo.config.skip_nnmodule_hook_guards:
        # by default, what was compiled for another instance, without hooks, may run in place of this one
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        torch.compiler.reset()
    recorder = LogitRecorder(layers)
    handles = [model.register_forward_pre_hook(recorder.start)]
    for layer in recorder.layers:
        handles += _hook(attentions[layer], layer, recorder, rows)
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _hook(attn: nn.Module, layer: int, recorder: LogitRecorder, rows: Rows) -> Handles:
    def keep(logits: Tensor) -> None:
        if recorder.with_gradient and not torch.is_grad_enabled() and layer not in recorder.rows:
            raise InputError(
                "gradient checkpointing: expected use_reentrant=False, as re-entrant checkpoints run the "
                "blocks without gradient first, and the attention that is read there would have none"
            )
        recorder.keep(layer, logits if rows == "all" else logits.squeeze(2))

    reader = reader_of(attn)
    assert reader is not None  # layout_of has refused such a model
    return reader.read(attn, keep, rows == "all")
