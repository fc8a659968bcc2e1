"""GTA's penalty: how far the model's [CLS] attention logits are from those of the frozen source.

Seo, Hong, Chae, Kim, Hwang (2024), "GTA: Guided Transfer of Spatial Attention from Object-Centric
Representations", arXiv 2401.02656.

    L = L_CE + lambda * sum over l, h, j of (A^src[l, h, cls, j] - A[l, h, cls, j])^2
    A = q k^T / sqrt(head_dim), before softmax;    lambda: `weight`, chosen by the caller

The paper does not say which layers and heads it takes, whether the column of [CLS] itself counts, nor
whether it sums or averages. Those are options here, and their defaults are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gta.attention import Layout, layout_of, record_logits
from gta.beside import beside
from gta.errors import InputError

Distance = Literal["logits", "centred", "kl"]
Columns = Literal["all", "patches"]
Reduction = Literal["mean", "sum"]


def attention_penalty(
    logits: Float[Tensor, "layers batch heads columns"],
    source: Float[Tensor, "layers batch heads columns"],
    *,
    distance: Distance = "logits",
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """The penalty of a batch: a scalar >= 0, 0 where the two agree, computed in float32.

    logits, source: the model's and the source's [CLS] rows; no gradient reaches the source's.
    distance: `logits`: squared difference (the paper); `centred`: the same after each row's mean is
    taken off, which like softmax ignores a shift of the row; `kl`: KL(source || model) of the softmax.
    reduction: over layers, heads and columns (`kl` sums its columns by definition); the batch is always
    averaged, so that the weight means the same at every batch size.
    """
    if logits.shape != source.shape:  # else they would be broadcast against each other
        raise ValueError(
            f"expected logits of equal shape, got {tuple(logits.shape)} and {tuple(source.shape)}"
        )
    logits, source = logits.float(), source.detach().float()
    if distance == "kl":
        divergence = F.kl_div(
            logits.log_softmax(-1), source.log_softmax(-1), reduction="none", log_target=True
        )
        entries = divergence.sum(-1, keepdim=True)
    else:
        difference = logits - source
        if distance == "centred":
            difference = difference - difference.mean(-1, keepdim=True)
        entries = difference.square()
    return entries.mean() if reduction == "mean" else entries.sum() / logits.shape[1]


class Guide:
    """Keeps a frozen source beside the model in training, and tells how far their attention is apart.

        with Guide(source, model) as guide:
            loss = F.cross_entropy(model(images), labels) + weight * guide.penalty()

    model: timm's, torchvision's or Hugging Face's (see `gta.attention`), plain, compiled, or within
    DistributedDataParallel: the very object that is called. source: of the same architecture; it runs as in
    `gta.beside`, cheaper after `source.bfloat16()`, unless `run_source` is False because the caller sees to
    that.
    layers, heads: numbers from 0 (negative ones count from the end), or "all"; columns: "all" tokens or
    "patches" only; distance and reduction as in `attention_penalty`.
    Raises InputError where the two models differ in tokens, prefix tokens, depth or heads, or where a
    layer or head does not exist.
    """

    def __init__(
        self,
        source: nn.Module,
        model: nn.Module,
        *,
        layers: Sequence[int] | Literal["all"] = "all",
        heads: Sequence[int] | Literal["all"] = "all",
        columns: Columns = "all",
        distance: Distance = "logits",
        reduction: Reduction = "mean",
        run_source: bool = True,
    ) -> None:
        layout = check_alike(source, model)
        self.source, self.model, self.run_source = source, model, run_source
        self.layers = numbers("layer", layers, len(layout.attentions))
        self.heads = numbers("head", heads, min(layout.heads))
        self.first_column = layout.prefix if columns == "patches" else 0
        self.distance, self.reduction = distance, reduction
        self._contexts = ExitStack()

    def __enter__(self) -> Guide:
        self.of_source = self._contexts.enter_context(record_logits(self.source, self.layers))
        self._of_model = self._contexts.enter_context(record_logits(self.model, self.layers))
        if self.run_source:
            forget = self.model.register_forward_pre_hook(lambda *_: self.of_source.rows.clear())
            self._contexts.callback(forget.remove)
            self._contexts.enter_context(beside(self.source, self.model, [self.of_source]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._contexts.close()

    def penalty(self) -> Tensor:
        """The penalty of the model's latest forward pass: a float32 scalar >= 0, with gradient.

        Raises RuntimeError after a pass in which the source did not run: in evaluation, or without gradient.
        """
        return attention_penalty(
            self._selected(self._of_model.stacked()),
            self._selected(self.of_source.stacked()),
            distance=self.distance,
            reduction=self.reduction,
        )

    def _selected(self, rows: Tensor) -> Tensor:
        if len(self.heads) < rows.shape[2]:  # not by a list, which would be sent to the device in each step
            rows = torch.stack([rows[:, :, head] for head in self.heads], dim=2)
        return rows[..., self.first_column :]


def numbers(what: str, wanted: Sequence[int] | Literal["all"], count: int) -> list[int]:
    """Layers or heads as sorted numbers from 0. Raises InputError where one does not exist, or none is
    given."""
    if wanted == "all":
        return list(range(count))
    wrong = [number for number in wanted if not -count <= int(number) < count]
    if wrong or not wanted:
        raise InputError(
            f"{what}s: expected numbers from {-count} to {count - 1} or 'all', got {list(wanted)}"
        )
    return sorted({int(number) % count for number in wanted})


def check_alike(source: nn.Module, model: nn.Module) -> Layout:
    """The layout that the two share. Raises InputError where they differ."""
    ours, theirs = layout_of(model), layout_of(source)
    for what, value, other in (
        ("blocks", len(ours.attentions), len(theirs.attentions)),
        ("heads", ours.heads, theirs.heads),
        ("patch grid", ours.grid, theirs.grid),
        ("prefix tokens", ours.prefix, theirs.prefix),
    ):
        if value != other:
            raise InputError(f"source and model differ in {what}: the source has {other}, the model {value}")
    return ours
