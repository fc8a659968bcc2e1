"""What every penalty is given, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gta.attention import LogitRecorder
from gta.shards import Shard

if TYPE_CHECKING:
    from gta.params.finetune import Finetune


class Batch(NamedTuple):
    """A step's images, or a shard of them, and what the model says of them."""

    images: Tensor
    """(B, 3, H, W), normalised; mixed, if the method mixes: what model and source see."""
    labels: Tensor
    """(B), of the images before they were mixed."""
    targets: Tensor
    """(B, K), probabilities of the classes; of mixed images the shares of both labels. Not smoothed."""
    logits: Tensor
    """(B, K), float32."""
    keys: Tensor | None
    """(B, 3, H, W): a second random view of each image, for penalties with `needs_keys`."""
    shard: Shard
    """Which images of the step's these are."""


@dataclass(frozen=True)
class Setting:
    """What a penalty may be built from; everything lies on one device."""

    model: nn.Module
    source: nn.Module
    settings: Finetune
    num_classes: int
    centre_views: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    """The training images once, in order, as they are seen in evaluation: (images, labels) in batches."""
    autocast: Callable[[], AbstractContextManager[Any]]
    """The precision in which the model runs."""


class Penalty(nn.Module):
    """A regulariser: `forward(batch)` gives its unweighted value, a float32 scalar, averaged over the batch.

    The batch may be a shard, whose value is then weighted by its share of the images (gta.shards): a penalty
    that is not a mean over images, or keeps something from step to step, says what it does about it.
    Its parameters are trained along at the head's learning rate; they and its buffers are in the checkpoint.
    The model and the source are not its submodules: they are held in tuples.
    """

    needs_source = False
    """Whether the frozen source has to see every batch."""
    of_source: LogitRecorder | None = None
    """While attached, where it alone reads the source's attention; None: it reads other things of it."""
    replaces_decay = False
    """Whether it stands in for weight decay, which is then off."""
    needs_keys = False
    """Whether every image is needed in a second random view."""
    replayable = True
    """Whether it is a function of tensors that never waits for the GPU, as `gta.replay` needs it."""

    def attached(self) -> AbstractContextManager[Any]:
        """Whatever the penalty reads of the models, recorded while the context lasts."""
        return nullcontext()

    def forward(self, batch: Batch) -> Tensor:
        raise NotImplementedError


class Inputs:
    """Hooks that keep the latest input of a module: `value` (B, D)."""

    def __init__(self, module: nn.Module) -> None:
        self.value: Tensor
        self._module = module

    def __enter__(self) -> Inputs:
        self._handle = self._module.register_forward_pre_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _keep(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.value = inputs[0]


def head_of(model: Any) -> nn.Linear:
    """timm's classifier, whose input is what the model makes of [CLS]."""
    found = model.get_classifier()
    head: nn.Linear = found[0] if isinstance(found, tuple) else found  # DeiT's second one reads another token
    return head


@torch.no_grad()
def seen_by(model: nn.Module, views: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """What an unchanged model makes of the images: its outputs (N, ...), float32, and the labels (N)."""
    outputs, labels = zip(*((model(images).float(), label) for images, label in views), strict=True)
    return torch.cat(outputs), torch.cat(labels)
