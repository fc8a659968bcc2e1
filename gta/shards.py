"""A step's batch in shards: one a process, and within a process some after another (`finetune.accumulate`).

The gradient of a mean over the batch is the sum of its shards' gradients, each weighted by the shard's share
of the images; processes add theirs up after their last shard. This is done here and not by
DistributedDataParallel since penalties train parameters of their own and read weights outside of the model's
forward pass, since a last batch may have fewer images than there are processes, and since its buckets are
laid out anew after the first step, so that of more than two processes a resumed run may add up in another
order and end with other bits. The price: gradients are sent when the backward pass is over, not during it.

Every process reads the whole batch, so that views, mixing and order are those of one process. What is drawn
while the model runs (dropout, stochastic depth) is drawn by each process for its shards.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

Value = TypeVar("Value")


class Shard(NamedTuple):
    """Images of a batch that the model sees at once."""

    rows: slice
    """Which of the batch."""
    share: float
    """Of the batch's images, in [0, 1]; 0 where the batch has too few, and one stands in without weight."""
    total: int
    """Images in the batch."""
    first: bool
    """Of this process in this step."""
    last: bool


def rank() -> int:
    """The number of this process, from 0; the first one alone writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def shards_of(total: int, accumulate: int) -> list[Shard]:
    """This process's shards of a batch of `total` images, in order, `accumulate` or fewer, at least one."""
    start, stop = (total * number // processes() for number in (rank(), rank() + 1))
    edges = [start + (stop - start) * number // accumulate for number in range(accumulate + 1)]
    rows = [slice(low, high) for low, high in pairwise(edges) if low < high]
    if not rows:  # as every process has to take part
        return [Shard(slice(total - 1, total), 0.0, total, True, True)]
    return [
        Shard(part, (part.stop - part.start) / total, total, part is rows[0], part is rows[-1])
        for part in rows
    ]


def whole(values: Tensor, start: int, total: int) -> Tensor:
    """(total, ...): the batch's values, of which this process has `values` (n, ...), from row `start` on.

    Without gradient; every process has to take part.
    """
    values = values.detach()
    if processes() == 1:
        return values
    batch = values.new_zeros((total, *values.shape[1:]))
    batch[start : start + len(values)] = values
    add_up([batch])
    return batch


def whole_with_gradient(values: Tensor, shard: Shard) -> Tensor:
    """(B, ...): the batch's values, of which `values` (b, ...) are those of the only shard of this process.

    With gradient for the shard's own rows, over its share: so a function of all of them, which is weighted by
    the share as every loss is, has the gradient of one process once the processes' are added up.
    """
    if processes() == 1:
        return values
    batch = whole(values, shard.rows.start, shard.total)
    own = values.view_as(values)
    own.register_hook(lambda slope: slope / shard.share)  # type: ignore[no-untyped-call]  # torch's
    return torch.cat([batch[: shard.rows.start], own, batch[shard.rows.stop :]])


def add_up(tensors: list[Tensor]) -> None:
    """Makes each the sum over processes, in place: one message in a fixed order."""
    if processes() > 1 and tensors:
        vector = parameters_to_vector(tensors)
        dist.all_reduce(vector)
        vector_to_parameters(vector, tensors)


def start_alike(modules: Iterable[nn.Module]) -> None:
    """Gives every process the first one's parameters and buffers."""
    if processes() > 1:
        for module in modules:
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor.detach(), 0)


def agreed(value: Value) -> Value:
    """What the first process says."""
    if processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]
