"""Device and autocast: where a model runs, and in which precision."""

from __future__ import annotations

import os
from typing import Literal

import torch


def pick_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def described(device: torch.device) -> str:
    """The device in words, for the log."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA)"
    return f"the CPU, {torch.get_num_threads()} threads; torch sees no GPU"


def make_deterministic() -> None:
    """Makes the same seed give the same bits on the same machine."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def autocast(precision: Literal["fp32", "bf16", "auto"], device: torch.device) -> torch.autocast:
    """bf16 autocast, or none. `auto` takes bf16 where the processor has instructions for it: elsewhere it
    is emulated, and slower than float32."""
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = bool(torch.cpu._is_avx512_bf16_supported())
        precision = "bf16" if native else "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
