"""What a step minimises, shard by shard of its batch: cross-entropy and the method's penalties."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gta.attention import LogitRecorder, layout_of
from gta.mixing import Mixed, mix, mixed_targets, transmix_share
from gta.models import normalise
from gta.penalties.base import Batch
from gta.precision import autocast
from gta.shards import Shard, shards_of

if TYPE_CHECKING:
    from gta.train import Run


class _Whole(NamedTuple):
    """A step's whole batch, of which each shard takes its rows."""

    images: Tensor
    """(B, 3, H, W), normalised and, where `mixed`, mixed."""
    labels: Tensor
    mixed: Mixed | None
    keys: Tensor | None
    """(B, 3, H, W): the second views."""


def add_gradient(
    run: Run, views: Tensor, labels: Tensor, step: int, attention: LogitRecorder | None
) -> Tensor:
    """Adds to the parameters the gradient of what this process's shards add to the batch's mean loss.

    Returns what they add to the means of: cross-entropy, the penalties, loss, accuracy on unmixed labels.
    views: (B, views, 3, H, W), uint8, labels: (B), of the whole batch.
    """
    images = normalise(views[:, 0], run.card)
    mixed = _mixed(run, images, step)
    keys = normalise(views[:, 1], run.card) if views.shape[1] > 1 else None
    batch = _Whole(images if mixed is None else mixed.images, labels, mixed, keys)
    added = []
    for shard in shards_of(len(labels), run.settings.accumulate):
        parts = _losses(run, batch, shard, step, attention)
        (shard.share * parts[-2]).backward()  # type: ignore[no-untyped-call]  # torch does not type it
        added.append(shard.share * torch.stack(parts).detach())
    return torch.stack(added).sum(0)


def _losses(
    run: Run, whole: _Whole, shard: Shard, step: int, attention: LogitRecorder | None
) -> list[Tensor]:
    """One forward pass: cross-entropy, the penalties, loss, accuracy, each the shard's mean."""
    images, labels, smoothing = (
        whole.images[shard.rows],
        whole.labels[shard.rows],
        run.settings.label_smoothing,
    )
    with autocast(run.settings.precision, run.device):
        logits = run.model(images).float()
    targets = F.one_hot(labels, logits.shape[1]).float()
    if whole.mixed is not None:
        mirrored = whole.labels.flip(0)[shard.rows]
        share = _pasted_share(run, whole.mixed, attention)
        targets = mixed_targets(labels, mirrored, share, logits.shape[1])
    wanted = labels if whole.mixed is None else targets
    parts = [F.cross_entropy(logits, wanted, label_smoothing=smoothing)]
    loss = parts[0]
    keys = None if whole.keys is None else whole.keys[shard.rows]
    batch = Batch(images, labels, targets, logits, keys, shard)
    for kind, penalty in run.penalties.items():
        parts.append(penalty(batch))
        loss = loss + _weight(run, kind, step) * parts[-1]
    return [*parts, loss, (logits.argmax(1) == labels).float().mean()]


def _mixed(run: Run, images: Tensor, step: int) -> Mixed | None:
    """The batch mixed as the method says; None where this one is not."""
    if run.method.mixing is None:
        return None
    options = getattr(run.settings, run.method.mixing)
    if np.random.default_rng((run.seed, step, 0)).random() >= options.probability:
        return None
    return mix(images, run.method.mixing, options.alpha, (run.seed, step, 1))


def _pasted_share(run: Run, mixed: Mixed, attention: LogitRecorder | None) -> float | Tensor:
    if attention is None:
        return mixed.share
    layout = layout_of(run.model)
    return transmix_share(attention.stacked()[0], mixed, layout.prefix, layout.grid)


def _weight(run: Run, kind: str, step: int) -> float:
    """The penalty's weight at a step."""
    weight, progress = run.method.weights[kind], step / run.steps
    if kind != "gta" or run.settings.gta.decay == "none":
        return weight
    return weight * (
        1 - progress if run.settings.gta.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    )
