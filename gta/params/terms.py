"""Options of the terms that a method may have: one class a term, named as in the grid."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainValidator

from gta.params.section import Section

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


def _numbers(value: object) -> object:
    if value == "all" or (isinstance(value, list) and value and all(type(item) is int for item in value)):
        return value
    raise ValueError("expected 'all' or a list of whole numbers")


Numbers = Annotated[Literal["all"] | list[int], PlainValidator(_numbers)]
"""`all`, or numbers from 0; negative ones count from the last."""


class Gta(Section):
    """What GTA's penalty compares. The paper does not say; the defaults in params.yaml are our choice."""

    layers: Numbers
    """Blocks."""
    heads: Numbers
    """Heads of each block."""
    columns: Literal["all", "patches"]
    """`all` tokens of the [CLS] row, or its `patches` only, without [CLS] and registers."""
    distance: Literal["logits", "centred", "kl"]
    """`logits`: squared difference of the logits (the paper); `centred`: after each row's mean is taken
    off; `kl`: Kullback-Leibler divergence of the softmax."""
    reduction: Literal["mean", "sum"]
    """Over layers, heads and columns; the batch is always averaged. A weight means the same for models of
    all sizes only with `mean`."""
    decay: Literal["none", "linear", "cosine"]
    """How the weight goes down to 0 over training."""


class At(Section):
    """Attention transfer."""

    layers: Numbers
    """Blocks whose maps are compared; their cross-entropies are added up."""


class L2sp(Section):
    """L2-SP."""

    head: NotNegative
    """Coefficient of the head's own squared norm, relative to the penalty's weight."""


class Delta(Section):
    """DELTA."""

    layers: Numbers
    """Blocks whose outputs are compared."""
    head: NotNegative
    """Coefficient of the head's own squared norm, relative to the penalty's weight."""


class Bss(Section):
    """Batch spectral shrinkage."""

    count: Annotated[int, Field(ge=1)]
    """How many of the smallest singular values are shrunk."""


class Lwf(Section):
    """Learning without forgetting."""

    temperature: Positive
    """Softens both predictions."""


class Bituning(Section):
    """Bi-Tuning."""

    temperature: Positive
    """Of the similarities."""
    queue: Annotated[int, Field(ge=1)]
    """Keys that are kept of each class."""
    momentum: Share
    """Of the slowly following copy of the model."""
    width: Annotated[int, Field(ge=1)]
    """Of the projection."""


class Mixing(Section):
    """Mixup, CutMix or TransMix."""

    alpha: Positive
    """Of the Beta distribution from which a batch's ratio is drawn."""
    probability: Share
    """Share of the batches that are mixed."""


class Lora(Section):
    """Low-rank adaptation, by the library peft."""

    rank: Annotated[int, Field(ge=1)]
    """Of the products that are added."""
    alpha: Positive
    """The products are scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """On the input of the products."""
    targets: Annotated[list[str], Field(min_length=1)]
    """Ends of the names of layers, such as `attn.qkv`: those layers in every block."""
    lr_scale: Positive
    """Learning rate of the products over the backbone's."""
