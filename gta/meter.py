"""What training costs while it runs: seconds and memory. They differ from run to run, so that they go beside
the state of a seed and never into an output."""

from __future__ import annotations

import resource
import sys
import time
from typing import NamedTuple

import torch


class Cost(NamedTuple):
    """Of one seed, over all processes that went on with it; work that a kill undid is not counted. Where
    several train together, as the first one sees it."""

    seconds: float
    memory_bytes: int
    """The peak; see `peak_memory`."""
    spared: int
    """Images that the source did not have to see, as an earlier cell's did (gta.targets)."""


def spent(before: Cost, started: float, spared: int, device: torch.device) -> Cost:
    """`before`, and what this process has added since `started` of the monotonic clock."""
    seconds = before.seconds + time.monotonic() - started
    return Cost(seconds, max(before.memory_bytes, peak_memory(device)), before.spared + spared)


def restart(device: torch.device) -> None:
    """Forgets the GPU's peak of earlier seeds; that of a process cannot be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes: of all tensors on a GPU since `restart`, those of CUDA graphs as they were captured; else the
    peak of this process's resident set since its start."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)  # KiB on Linux


def memory_of(device: torch.device) -> str:
    """Whose memory `peak_memory` tells."""
    return "GPU tensors" if device.type == "cuda" else "process"
