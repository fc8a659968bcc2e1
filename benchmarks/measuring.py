"""What the benchmarks share: clocks, the machine's matrix rate, and how results are written."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from gta.precision import described, processor

RESULTS = Path("benchmarks/results")


def timed(run: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds a run, the mean of a few in a row."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def over(values: Sequence[float], base: Sequence[float], name: str) -> dict[str, float]:
    """Median and quartiles, over rounds, of the ratio that each round gives: columns of a table."""
    first, median, third = np.percentile(np.divide(values, base), [25, 50, 75])
    return {name: median, f"{name}, first quartile": first, f"{name}, third quartile": third}


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that the tensors of a run take at most, beyond those that were there before.

    On a CPU, of Linux with glibc: by how much the process's resident set grows; 0 elsewhere.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    if platform.libc_ver()[0] != "glibc":
        return 0
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # gives back what is free
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _resident(which: str) -> int:
    """Bytes of this process's resident set, now or at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of one large bf16 matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    a @ b
    return 2 * side**3 / timed(lambda: a @ b, 5, device)


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware and versions, for every result."""
    host = {} if device.type == "cpu" else {"host": f"{processor()}, {os.cpu_count()} threads"}
    packages = {name: version(name) for name in ("torchvision", "timm", "transformers")}
    versions = {"python": platform.python_version(), "torch": torch.__version__, **packages}
    return {"device": described(device), **host, **versions}


def suffix(device: torch.device) -> str:
    """The device in a file's name."""
    return torch.cuda.get_device_name(device).replace(" ", "-") if device.type == "cuda" else "cpu"


def write(table: pd.DataFrame, facts: dict[str, Any], path: Path) -> None:
    """Prints both, and writes `path`.csv and `path`.json."""
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(f"{path}.csv", index=False, float_format="%.6g", lineterminator="\n")
    content = json.dumps({**facts, "rows": table.to_dict("records")}, indent=2)
    Path(f"{path}.json").write_text(content + "\n", encoding="utf-8")
