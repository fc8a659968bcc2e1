"""What a step minimises, shard by shard of its batch: cross-entropy and the method's penalties."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gta.attention import LogitRecorder, layout_of
from gta.mixing import Mixed, mix, mixed_targets, pasted_patches, transmix_share
from gta.models import normalise
from gta.penalties.base import Batch
from gta.precision import autocast, sent
from gta.shards import Shard, shards_of

if TYPE_CHECKING:
    from gta.train import Run


class Whole(NamedTuple):
    """A step's whole batch, of which each shard takes its rows: all that differs from step to step, as
    tensors on one device (gta.replay)."""

    images: Tensor
    """(B, 3, H, W), normalised and, where the method mixes, mixed."""
    labels: Tensor
    """(B), of the images before they were mixed."""
    weights: Tensor
    """Of the penalties, in their order; float32."""
    share: Tensor | None
    """Of the mirrored image in each mixed one, a scalar, float64; None where none is mixed."""
    pasted: Tensor | None
    """(patches): 1 for those that were pasted, where TransMix reads it."""
    keys: Tensor | None
    """(B, 3, H, W): the second views."""


def whole_of(run: Run, views: Tensor, labels: Tensor, step: int) -> Whole:
    """The batch as the model is to see it. views: (B, views, 3, H, W), uint8; labels: (B)."""
    images = normalise(views[:, 0], run.card)
    mixed = _mixed(run, images, step)
    weights = torch.tensor([_weight(run, kind, step) for kind in run.penalties], dtype=torch.float32)
    share = pasted = None
    if mixed is not None:
        images, share = mixed.images, sent(torch.tensor(mixed.share, dtype=torch.float64), images.device)
        if run.method.mixing == "transmix":
            pasted = pasted_patches(mixed, layout_of(run.model).grid)
    keys = normalise(views[:, 1], run.card) if views.shape[1] > 1 else None
    return Whole(images, labels, sent(weights, images.device), share, pasted, keys)


def add_gradient(run: Run, attention: LogitRecorder | None, batch: Whole) -> Tensor:
    """Adds to the parameters the gradient of what this process's shards add to the batch's mean loss.

    Returns what they add to the means of: cross-entropy, the penalties, loss, accuracy on unmixed labels.
    attention: of the last block, where the method's mixing reads it.
    """
    added = []
    for shard in shards_of(len(batch.labels), run.settings.accumulate):
        parts = _losses(run, attention, batch, shard)
        (shard.share * parts[-2]).backward()  # type: ignore[no-untyped-call]  # torch does not type it
        added.append(shard.share * torch.stack(parts).detach())
    return torch.stack(added).sum(0)


def _losses(run: Run, attention: LogitRecorder | None, whole: Whole, shard: Shard) -> list[Tensor]:
    """One forward pass: cross-entropy, the penalties, loss, accuracy, each the shard's mean."""
    images, labels = whole.images[shard.rows], whole.labels[shard.rows]
    with autocast(run.settings.precision, run.device):
        logits = run.model(images).float()
    targets = F.one_hot(labels, logits.shape[1]).float()
    wanted = labels
    if whole.share is not None:
        mirrored, share = whole.labels.flip(0)[shard.rows], whole.share
        if whole.pasted is not None:
            assert attention is not None  # TransMix has it recorded
            prefix = layout_of(run.model).prefix
            share = transmix_share(attention.stacked()[0], share, whole.pasted, prefix)
        wanted = targets = mixed_targets(labels, mirrored, share, logits.shape[1])
    parts = [F.cross_entropy(logits, wanted, label_smoothing=run.settings.label_smoothing)]
    loss = parts[0]
    keys = None if whole.keys is None else whole.keys[shard.rows]
    batch = Batch(images, labels, targets, logits, keys, shard)
    for weight, penalty in zip(whole.weights, run.penalties.values(), strict=True):
        parts.append(penalty(batch))
        loss = loss + weight * parts[-1]
    return [*parts, loss, (logits.argmax(1) == labels).float().mean()]


def _mixed(run: Run, images: Tensor, step: int) -> Mixed | None:
    """The batch mixed as the method says; None where this one is not."""
    if run.method.mixing is None:
        return None
    options = getattr(run.settings, run.method.mixing)
    if np.random.default_rng((run.seed, step, 0)).random() >= options.probability:
        return None
    return mix(images, run.method.mixing, options.alpha, (run.seed, step, 1))


def _weight(run: Run, kind: str, step: int) -> float:
    """The penalty's weight at a step."""
    weight, progress = run.method.weights[kind], step / run.steps
    if kind != "gta" or run.settings.gta.decay == "none":
        return weight
    return weight * (
        1 - progress if run.settings.gta.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    )
