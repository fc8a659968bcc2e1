"""Device, autocast and compilation: where a model runs, and how."""

from __future__ import annotations

import logging
import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

log = logging.getLogger(__name__)


def pick_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sent(values: Tensor, device: torch.device) -> Tensor:
    """On `device`, without waiting for what it is doing: an ordinary copy to a GPU would."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def described(device: torch.device) -> str:
    """The device in words, for the log."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA)"
    return f"the CPU ({processor()}), {torch.get_num_threads()} threads; torch sees no GPU"


def processor() -> str:
    """Its name, and the widest instructions that torch uses of it."""
    try:
        named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except FileNotFoundError:
        named = None
    name = named[1] if named else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def make_deterministic() -> None:
    """Makes the same seed give the same bits on the same machine."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # filling it takes time, and nothing reads it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


Precision = Literal["fp32", "bf16", "auto"]


def takes_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether the precision means bf16 here. `auto` does where the processor has instructions for it:
    elsewhere it is emulated, and slower than float32."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """bf16 autocast, or none."""
    return torch.autocast(device.type, torch.bfloat16, enabled=takes_bf16(precision, device))


@cache
def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works here, which needs a C++ compiler or Triton; logs why not.

    Compiled models see their hooks from here on, see `attention.record_logits`.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:
        log.warning(f"torch.compile does not work here, models run uncompiled: {str(error).splitlines()[0]}")
        return False
    return True
