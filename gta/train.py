"""The training loop of every method: one seed of one cell, interruptible at any moment."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from gta.atomic import atomic_file
from gta.attention import LogitRecorder, is_compiled, layout_of, record_logits
from gta.batches import Epochs, Loader
from gta.errors import InputError
from gta.guidance import beside
from gta.meter import Cost, restart, spent
from gta.methods import Method
from gta.mixing import Mixed, mix, mixed_targets, transmix_share
from gta.models import Card, normalise
from gta.optim import build_optimizer, lr_at, set_lr
from gta.penalties.base import Batch, Penalty
from gta.precision import autocast

if TYPE_CHECKING:
    from gta.params.finetune import Finetune

    Bar = tqdm[Any]

log = logging.getLogger(__name__)

CHECK_EVERY = 20  # steps between looks at the losses: each look waits for the GPU


@dataclass
class Run:
    """One seed of one cell, ready to train; everything lies on `device`."""

    model: nn.Module
    card: Card
    source: nn.Module
    method: Method
    penalties: nn.ModuleDict
    """The method's penalties that have a weight, by kind."""
    settings: Finetune
    seed: int
    device: torch.device
    loader: Loader
    sampler: Epochs
    validate: Callable[[nn.Module], dict[str, float]] | None
    """Measures the model on the validation images; None where there are none."""

    @property
    def epochs(self) -> int:
        """`epochs`, or as many more as make `min_steps`."""
        return max(self.settings.epochs, -(-self.settings.min_steps // len(self.loader)))

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.epochs * len(self.loader)


class Trained(NamedTuple):
    """What training gave beside the weights."""

    history: pd.DataFrame
    """A row an epoch."""
    cost: Cost


def train(run: Run, checkpoint: Path) -> Trained:
    """Trains `run.model` in place.

    An epoch's randomness is a function of (seed, epoch) alone, so that a run which was killed and goes on
    from `checkpoint` ends with the same bits as one that was not.
    Raises InputError where a loss is not finite, with epoch, step and components.
    """
    optimizer = build_optimizer(run.model, run.penalties, run.settings)
    restart(run.device)
    history, before = _resume(run, optimizer, checkpoint)
    started = saved = time.monotonic()
    with ExitStack() as contexts:
        attention = _attach(run, contexts)
        done = len(history) * len(run.loader)
        title = f"{run.method.name}, seed {run.seed}"
        bar = contexts.enter_context(tqdm(None, title, run.steps, initial=done, unit="step", disable=None))
        contexts.enter_context(logging_redirect_tqdm())
        for epoch in range(len(history), run.epochs):
            row = _train_epoch(run, epoch, optimizer, attention, bar) | _validate(run, epoch)
            history.append({"seed": run.seed, "epoch": epoch + 1, **row})
            log.info(" ".join(f"{key} {_short(value)}" for key, value in history[-1].items()))
            if epoch + 1 == run.epochs or time.monotonic() - saved >= run.settings.checkpoint_seconds:
                _save(run, optimizer, history, spent(before, started, run.device), checkpoint)
                saved = time.monotonic()
        cost = spent(before, started, run.device)
    return Trained(pd.DataFrame(history), cost)


def _attach(run: Run, contexts: ExitStack) -> LogitRecorder | None:
    """Lets the penalties see what they read, and the source see the batches; returns what TransMix reads."""
    penalties = [penalty for penalty in run.penalties.children() if isinstance(penalty, Penalty)]
    for penalty in penalties:
        contexts.enter_context(penalty.attached())
    ends = [penalty.source_ends for penalty in penalties if penalty.needs_source]
    if ends:
        end = None if None in ends else max(number for number in ends if number is not None)
        contexts.enter_context(beside(run.source, run.model, end, compiled=is_compiled(run.model)))
    if run.method.mixing != "transmix":
        return None
    last = len(layout_of(run.model).attentions) - 1
    return contexts.enter_context(record_logits(run.model, [last]))


def _train_epoch(
    run: Run, epoch: int, optimizer: torch.optim.Optimizer, attention: LogitRecorder | None, bar: Bar
) -> dict[str, float]:
    """One pass over the training images; the means over images of loss, its components and accuracy."""
    run.model.train()
    run.sampler.epoch = epoch
    torch.manual_seed(_mix(run.seed, epoch))
    first = epoch * len(run.loader)
    names = ["cross_entropy", *run.penalties, "loss", "train_top1"]
    pending: list[Tensor] = []
    seen: list[list[float]] = []
    started = time.monotonic()
    for number, (views, labels) in enumerate(run.loader):
        set_lr(optimizer, run.settings.lr * lr_at(first + number, run.steps, run.settings.warmup))
        views, labels = (batch.to(run.device, non_blocking=True) for batch in (views, labels))
        losses = _losses(run, views, labels, first + number, attention)
        _update(run, optimizer, losses[-3])
        pending.append(torch.stack(losses).detach())
        if len(pending) == CHECK_EVERY or number + 1 == len(run.loader):
            seen += _checked(torch.stack(pending).tolist(), names, epoch, number + 2 - len(pending))
            bar.update(len(pending))
            pending.clear()
            rate = sum(row[-1] for row in seen) / (time.monotonic() - started)
            shown = {name: _short(value) for name, value in zip(names, seen[-1], strict=False)}
            bar.set_postfix({**shown, "images/s": f"{rate:.0f}"})
    total = sum(row[-1] for row in seen)
    means = {name: sum(row[i] * row[-1] for row in seen) / total for i, name in enumerate(names)}
    return {
        "lr": run.settings.lr * lr_at(first + len(run.loader) - 1, run.steps, run.settings.warmup),
        **means,
    }


def _losses(
    run: Run, views: Tensor, labels: Tensor, step: int, attention: LogitRecorder | None
) -> list[Tensor]:
    """One forward pass: cross-entropy, the penalties, loss, accuracy on unmixed labels, batch size."""
    images = normalise(views[:, 0], run.card)
    mixed = _mixed(run, images, step)
    with autocast(run.settings.precision, run.device):
        logits = run.model(images if mixed is None else mixed.images).float()
    targets = F.one_hot(labels, logits.shape[1]).float()
    if mixed is not None:
        targets = mixed_targets(labels, _pasted_share(run, mixed, attention), logits.shape[1])
    smoothing = run.settings.label_smoothing
    parts = [F.cross_entropy(logits, labels if mixed is None else targets, label_smoothing=smoothing)]
    loss = parts[0]
    keys = normalise(views[:, 1], run.card) if views.shape[1] > 1 else None
    batch = Batch(images if mixed is None else mixed.images, labels, targets, logits, keys)
    for kind, penalty in run.penalties.items():
        parts.append(penalty(batch))
        loss = loss + _weight(run, kind, step) * parts[-1]
    right = (logits.argmax(1) == labels).float().mean()
    return [*parts, loss, right, torch.full_like(loss, len(labels))]


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


def _update(run: Run, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    if run.settings.clip_norm is not None:
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(trained, run.settings.clip_norm)
    optimizer.step()


def _checked(rows: list[list[float]], names: list[str], epoch: int, first: int) -> list[list[float]]:
    for step, row in enumerate(rows, first):
        if not all(abs(value) < float("inf") for value in row):
            parts = ", ".join(f"{name} {value:g}" for name, value in zip(names[:-1], row, strict=False))
            raise InputError(
                f"training stopped: the loss is not finite at epoch {epoch + 1}, step {step} of the epoch: "
                f"{parts}; lower finetune.lr or the method's weight, or set finetune.clip_norm"
            )
    return rows


def _validate(run: Run, epoch: int) -> dict[str, float]:
    every = run.settings.validate_every
    if run.validate is None or every == 0:
        return {}
    if (epoch + 1) % every and epoch + 1 < run.epochs:
        return {"val_top1": float("nan"), "val_nll": float("nan")}
    measured = run.validate(run.model.eval())
    return {"val_top1": measured["top1"], "val_nll": measured["nll"]}


def _save(
    run: Run, optimizer: torch.optim.Optimizer, history: list[dict[str, Any]], cost: Cost, path: Path
) -> None:
    state = {
        "model": run.model.state_dict(),
        "penalties": run.penalties.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history,
        "cost": tuple(cost),
    }
    with atomic_file(path) as partial:
        torch.save(state, partial)


def _resume(run: Run, optimizer: torch.optim.Optimizer, path: Path) -> tuple[list[dict[str, Any]], Cost]:
    if not path.exists():
        return [], Cost(0.0, 0)
    state = torch.load(path, map_location=run.device, weights_only=True)
    run.model.load_state_dict(state["model"])
    run.penalties.load_state_dict(state["penalties"])
    optimizer.load_state_dict(state["optimizer"])
    history: list[dict[str, Any]] = state["history"]
    log.info(f"seed {run.seed}: goes on after epoch {len(history)} of {run.epochs}")
    return history, Cost(*state["cost"])


def _mix(seed: int, epoch: int) -> int:
    """One seed of torch's generators out of two numbers."""
    return (seed * 1_000_003 + epoch) % 2**63


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
