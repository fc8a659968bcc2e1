"""Runs the frozen source beside the model in training, and does no more of its work than is read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gta.attention import Enough, LogitRecorder, is_compiled
from gta.targets import Targets

log = logging.getLogger(__name__)

SHAPES = 4
"""So many shapes of batches get a CUDA graph; others run as they come."""


@contextmanager
def beside(
    source: nn.Module,
    model: nn.Module,
    recorders: Sequence[LogitRecorder] = (),
    *,
    compiled: bool = False,
    replayed: bool = False,
    targets: Targets | None = None,
) -> Iterator[None]:
    """While the context lasts, each training pass of `model` is preceded by one of `source`.

    The source is frozen, in evaluation mode, and sees the very same tensor without gradient, under the same
    autocast; where its weights are bf16 it computes in bf16 throughout. It runs only while the model is in
    training mode with gradients on. Hugging Face's `labels` are not handed on.
    recorders: all that is read of the source, which stops as soon as they are full; none: it runs to its
    end, as it always does where it was compiled before. compiled: whether to compile it here, without what
    nobody reads. replayed: whether a GPU keeps its pass as a CUDA graph, which spares the CPU the launches;
    hooks other than the recorders' then see its first passes only. targets: where the rows of the one
    recorder are kept, and read again.
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

    passed: Callable[..., None] = _Replayed(look, recorders) if replayed and stops else look
    if targets is not None:
        (recorder,) = recorders
        passed = targets.instead(passed, recorder)

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


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    images: Tensor
    """What it reads."""
    rows: list[dict[int, Tensor]]
    """What it writes, by recorder."""


class _Replayed:
    """A pass over images on a GPU, kept as one CUDA graph a shape. What the recorders then hold lies in the
    graph's memory, until its next replay."""

    def __init__(self, look: Callable[..., None], recorders: Sequence[LogitRecorder]) -> None:
        self._look, self._recorders = look, recorders
        self._graphs: dict[torch.Size, _Graph] = {}
        self._fails = False

    def __call__(self, images: Tensor, **options: Any) -> None:
        kept = None if options or not images.is_cuda else self._graph_for(images)
        if kept is None:
            self._look(images, **options)
            return
        kept.images.copy_(images)
        kept.graph.replay()
        for recorder, rows in zip(self._recorders, kept.rows, strict=True):
            recorder.rows = dict(rows)

    def _graph_for(self, images: Tensor) -> _Graph | None:
        """The graph of this shape; None where there are enough, or what the source does cannot be kept."""
        if images.shape not in self._graphs and not self._fails and len(self._graphs) < SHAPES:
            try:
                self._graphs[images.shape] = self._capture(images)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._fails = True
                reason = str(error).splitlines()[0]
                log.warning(f"the source's pass cannot be kept as a CUDA graph and runs each time: {reason}")
        return self._graphs.get(images.shape)

    def _capture(self, images: Tensor) -> _Graph:
        seen, graph, aside = images.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._look(seen)  # libraries choose and load their kernels, which no graph can hold
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # loaders use CUDA meanwhile
            self._look(seen)
        return _Graph(graph, seen, [dict(recorder.rows) for recorder in self._recorders])
