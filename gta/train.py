"""The training loop of every method: one seed of one cell, interruptible at any moment."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from gta import warning
from gta.atomic import atomic_file
from gta.attention import LogitRecorder, is_compiled, layout_of, record_logits
from gta.batches import Epochs, Loader
from gta.beside import beside
from gta.errors import InputError
from gta.kernels import lighten
from gta.losses import Whole, add_gradient, whole_of
from gta.meter import Cost, restart, spent
from gta.methods import Method
from gta.models import Card
from gta.optim import build_optimizer, lr_at, set_lr
from gta.penalties.base import Penalty
from gta.precision import takes_bf16
from gta.replay import Replayed
from gta.shards import add_up, agreed, rank, start_alike
from gta.targets import Targets

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
    targets: Targets | None = None
    """Where the source's [CLS] rows are kept for other cells, where they are all that is read of it."""

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

    An epoch's randomness is a function of (seed, epoch, process) alone, so that a run which was killed and
    goes on from `checkpoint` ends with the same bits as one that was not. Of several processes (gta.shards)
    all end with the same weights, and the first one writes the checkpoint.
    Raises InputError where a loss is not finite, with epoch, step and components; SystemExit where a warning
    came (gta/warning.py), once it has saved.
    """
    optimizer = build_optimizer(run.model, run.penalties, run.settings)
    restart(run.device)
    history, before = _resume(run, optimizer, checkpoint)
    start_alike([run.model, run.penalties])
    started = saved = time.monotonic()
    with ExitStack() as contexts:
        gradient = _gradient(run, optimizer, _attach(run, contexts))
        done = len(history) * len(run.loader)
        title = f"{run.method.name}, seed {run.seed}"
        hidden = True if rank() else None  # None: where nobody looks
        log.info(f"{title}: {run.epochs} epochs of {len(run.loader)} steps{_why(run)}")
        bar = contexts.enter_context(tqdm(None, title, run.steps, initial=done, unit="step", disable=hidden))
        contexts.enter_context(logging_redirect_tqdm())
        for epoch in range(len(history), run.epochs):
            with run.targets.epoch(epoch, run.sampler.count) if run.targets else nullcontext():
                row = _train_epoch(run, epoch, optimizer, gradient, bar)
            history.append({"seed": run.seed, "epoch": epoch + 1, **row, **_validate(run, epoch)})
            log.info(" ".join(f"{key} {_short(value)}" for key, value in history[-1].items()))
            warned = agreed(warning.came())
            due = time.monotonic() - saved >= run.settings.checkpoint_seconds
            if rank() == 0 and (epoch + 1 == run.epochs or due or warned):
                _save(run, optimizer, history, _spent(run, before, started), checkpoint)
                saved = time.monotonic()
            if warned and epoch + 1 < run.epochs:
                log.info(f"seed {run.seed}: saved, and ended before its time was up")
                agreed(None)  # once the first process has saved
                sys.exit(warning.STATUS)
        cost = _spent(run, before, started)
    return Trained(pd.DataFrame(history), cost)


def _why(run: Run) -> str:
    """Of more epochs than `epochs`."""
    settings = run.settings
    if run.epochs == settings.epochs:
        return ""
    return f", more than finetune.epochs, {settings.epochs}, to make finetune.min_steps, {settings.min_steps}"


def _attach(run: Run, contexts: ExitStack) -> LogitRecorder | None:
    """Lets the penalties see what they read, and the source see the batches; returns what TransMix reads."""
    penalties = _penalties(run)
    for penalty in penalties:
        contexts.enter_context(penalty.attached())
    readers = [penalty for penalty in penalties if penalty.needs_source]
    if readers:
        compiled = is_compiled(run.model)
        recorders = [penalty.of_source for penalty in readers if penalty.of_source is not None]
        only_attention = len(recorders) == len(readers)
        if takes_bf16(run.settings.precision, run.device):
            lighten(run.source, only_attention, packed=not compiled)
        seen = recorders if only_attention else ()
        contexts.enter_context(beside(run.source, run.model, seen, compiled=compiled, targets=run.targets))
    if run.method.mixing != "transmix":
        return None
    last = len(layout_of(run.model).attentions) - 1
    return contexts.enter_context(record_logits(run.model, [last]))


def _gradient(
    run: Run, optimizer: torch.optim.Optimizer, attention: LogitRecorder | None
) -> Callable[[Whole], Tensor]:
    """What adds a step's gradient to the parameters, and returns its losses."""
    gradient = partial(add_gradient, run, attention)
    if not all(penalty.replayable for penalty in _penalties(run)):
        return gradient
    return Replayed(gradient, _trained(optimizer))


def _penalties(run: Run) -> list[Penalty]:
    return [penalty for penalty in run.penalties.children() if isinstance(penalty, Penalty)]


def _trained(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _train_epoch(
    run: Run, epoch: int, optimizer: torch.optim.Optimizer, gradient: Callable[[Whole], Tensor], bar: Bar
) -> dict[str, float]:
    """One pass over the training images; the means over images of loss, its components and accuracy."""
    run.model.train()
    run.sampler.epoch = epoch
    torch.manual_seed(_mix(run.seed, epoch, rank()))
    first = epoch * len(run.loader)
    names = ["cross_entropy", *run.penalties, "loss", "train_top1"]
    pending: list[Tensor] = []
    seen: list[list[float]] = []
    sizes: list[int] = []
    started = time.monotonic()
    for number, (views, labels) in enumerate(run.loader):
        set_lr(optimizer, run.settings.lr * lr_at(first + number, run.steps, run.settings.warmup))
        views, labels = (batch.to(run.device, non_blocking=True) for batch in (views, labels))
        optimizer.zero_grad(set_to_none=True)
        pending.append(gradient(whole_of(run, views, labels, first + number)))
        _update(run, optimizer)
        sizes.append(len(labels))
        if len(pending) == CHECK_EVERY or number + 1 == len(run.loader):
            rows = torch.stack(pending)
            add_up([rows])
            seen += _checked(rows.tolist(), names, epoch, number + 2 - len(pending))
            bar.update(len(pending))
            pending.clear()
            rate = sum(sizes) / (time.monotonic() - started)
            shown = {name: _short(value) for name, value in zip(names, seen[-1], strict=True)}
            bar.set_postfix({**shown, "images/s": f"{rate:.0f}"})
    weighted = [[size * value for value in row] for size, row in zip(sizes, seen, strict=True)]
    means = dict(
        zip(names, (sum(values) / sum(sizes) for values in zip(*weighted, strict=True)), strict=True)
    )
    return {
        "lr": run.settings.lr * lr_at(first + len(run.loader) - 1, run.steps, run.settings.warmup),
        **means,
    }


def _update(run: Run, optimizer: torch.optim.Optimizer) -> None:
    """A step along the gradient of the whole batch, to which every process has added its shards'."""
    trained = _trained(optimizer)
    add_up([parameter.grad for parameter in trained if parameter.grad is not None])
    if run.settings.clip_norm is not None:
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


def _spent(run: Run, before: Cost, started: float) -> Cost:
    return spent(before, started, run.targets.read if run.targets else 0, run.device)


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
    stored = io.BytesIO()  # torch's own writer turns a full disk into "unexpected pos 576 vs 534"
    torch.save(state, stored)
    with atomic_file(path) as partial:
        partial.write_bytes(stored.getbuffer())


def _resume(run: Run, optimizer: torch.optim.Optimizer, path: Path) -> tuple[list[dict[str, Any]], Cost]:
    if not path.exists():
        return [], Cost(0.0, 0, 0)
    state = torch.load(path, map_location=run.device, weights_only=True)
    run.model.load_state_dict(state["model"])
    run.penalties.load_state_dict(state["penalties"])
    optimizer.load_state_dict(state["optimizer"])
    history: list[dict[str, Any]] = state["history"]
    log.info(f"seed {run.seed}: goes on after epoch {len(history)} of {run.epochs}")
    return history, Cost(*state["cost"])


def _mix(seed: int, epoch: int, process: int) -> int:
    """One seed of torch's generators out of three numbers."""
    return (seed * 1_000_003 + epoch + process * 1_000_000_007) % 2**63


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
