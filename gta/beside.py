"""Runs the frozen source beside the model in training, and does no more of its work than is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from gta.attention import Enough, LogitRecorder, is_compiled
from gta.targets import Targets


@contextmanager
def beside(
    source: nn.Module,
    model: nn.Module,
    recorders: Sequence[LogitRecorder] = (),
    *,
    compiled: bool = False,
    targets: Targets | None = None,
) -> Iterator[None]:
    """While the context lasts, each training pass of `model` is preceded by one of `source`.

    The source is frozen, in evaluation mode, and sees the very same tensor without gradient, under the same
    autocast; where its weights are bf16 it computes in bf16 throughout. It runs only while the model is in
    training mode with gradients on. Hugging Face's `labels` are not handed on.
    recorders: all that is read of the source, which stops as soon as they are full; none: it runs to its
    end, as it always does where it was compiled before. compiled: whether to compile it here, without what
    nobody reads. targets: where the rows of the one recorder are kept, and read again.
    """
    source.requires_grad_(False).eval()
    in_bf16 = next(source.parameters()).dtype == torch.bfloat16
    stops = bool(recorders) and not compiled and not is_compiled(source)

    def see(*inputs: Any, **options: Any) -> None:  # returns nothing, so that no output is ever wanted
        source(*inputs, **options)

    run = torch.compile(see, dynamic=False) if compiled else see

    def look(*inputs: Any, **options: Any) -> None:
        if in_bf16:
            inputs = tuple(_narrow(value) for value in inputs)
            options = {name: _narrow(value) for name, value in options.items()}
        device = next(source.parameters()).device.type
        precision = torch.autocast(device, enabled=False) if in_bf16 else nullcontext()
        with torch.no_grad(), precision, suppress(Enough):
            run(*inputs, **options)

    passed: Callable[..., None] = look
    if targets is not None:
        (recorder,) = recorders
        passed = targets.instead(look, recorder)

    def run_source(_: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if model.training and torch.is_grad_enabled():
            passed(*inputs, **{name: value for name, value in options.items() if name != "labels"})

    handle = model.register_forward_pre_hook(run_source, with_kwargs=True)
    for recorder in recorders if stops else ():
        recorder.fellows = recorders
    try:
        yield
    finally:
        handle.remove()
        for recorder in recorders:
            recorder.fellows = ()


def _narrow(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value
