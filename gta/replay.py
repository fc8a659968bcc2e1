"""A step's gradient, kept on a GPU as CUDA graphs, so that a step is one launch and not a thousand.

A kernel of a ViT-S takes a GPU some microseconds, and a CPU hardly less to launch: without graphs the GPU
waits.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

KINDS = 6
"""So many kinds of inputs get a graph; others run as they come."""
Inputs = TypeVar("Inputs", bound="tuple[Tensor | None, ...]")
Kind = tuple[torch.Size | None, ...]


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor | None, ...]
    """What it reads."""
    result: Tensor
    gradients: list[Tensor | None]
    """What it writes, like the result at each replay."""


class Replayed(Generic[Inputs]):
    """`gradient`, a function that adds to the `.grad` of `parameters`, as CUDA graphs: the same bits.

    It is given named tuples of tensors, with None for what is not there, and gives a tensor. It has to be a
    function of them, of weights and of the GPU's random numbers alone: whatever else it reads stays as it was
    when a graph was captured, and hooks do not run again. Inputs of a new kind (what is there, of which
    shape) run as they come the first time, while libraries choose their kernels and torch.compile compiles;
    the second time they are captured. On a CPU everything runs as it comes, as it does from where the GPU
    cannot keep a graph, or lacks the memory, which is logged. The parameters' `.grad` has to be None at each
    call.
    """

    def __init__(self, gradient: Callable[[Inputs], Tensor], parameters: Sequence[Tensor]) -> None:
        self._gradient, self._parameters = gradient, parameters
        self._graphs: dict[Kind, _Graph | None] = {}
        """None: seen once."""
        self._fails = False

    def __call__(self, inputs: Inputs) -> Tensor:
        kind = tuple(None if each is None else each.shape for each in inputs)
        on_a_gpu = next(each for each in inputs if each is not None).is_cuda
        if self._fails or not on_a_gpu or (kind not in self._graphs and len(self._graphs) == KINDS):
            return self._gradient(inputs)
        try:
            return self._replayed(kind, inputs) if kind in self._graphs else self._launched(kind, inputs)
        except RuntimeError as error:
            if not self._graphs:  # it was no graph's fault
                raise
            reason = str(error.__context__ or error).splitlines()[0]
        self._give_up(reason)  # here, where the error no longer holds what the capture had made
        return self._gradient(inputs)

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        """Where graphs are captured, and before that launched: what autograd makes for a parameter belongs to
        the stream that has used it first."""
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch does not type it

    def _launched(self, kind: Kind, inputs: Inputs) -> Tensor:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = self._gradient(inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._graphs[kind] = None
        return result

    def _replayed(self, kind: Kind, inputs: Inputs) -> Tensor:
        graph = self._graphs[kind] or self._capture(inputs)
        self._graphs[kind] = graph
        for kept, given in zip(graph.inputs, inputs, strict=True):
            if kept is not None and given is not None:
                kept.copy_(given)
        graph.graph.replay()
        for parameter, gradient in zip(self._parameters, graph.gradients, strict=True):
            # another tensor of the same memory: gta.shards gives it memory of its own
            parameter.grad = None if gradient is None else gradient.detach()
        return graph.result.clone()

    def _capture(self, inputs: Inputs) -> _Graph:
        make: Any = type(inputs)
        kept = make(*(None if each is None else each.clone() for each in inputs))
        graph = torch.cuda.CUDAGraph()
        others = [each.graph.pool() for each in self._graphs.values() if each is not None]
        pool = others[0] if others else None  # as never two of them run at once
        gc.collect()  # no other graph may be freed meanwhile
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        random = generator.clone_state()
        try:
            # loaders use CUDA meanwhile, in threads of their own
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"),
            ):
                result = self._gradient(kept)
        except RuntimeError:  # torch leaves its generator, like its stream, in the capture
            generator.graphsafe_set_state(random)
            raise
        return _Graph(graph, kept, result, [parameter.grad for parameter in self._parameters])

    def _give_up(self, reason: str) -> None:
        self._fails = True
        self._graphs.clear()
        for parameter in self._parameters:
            parameter.grad = None
        torch.cuda.empty_cache()
        log.warning(f"steps are not kept as CUDA graphs, but launched each time: {reason}")
