"""A lack of memory, by allocations that really fail, is told; other errors pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from gta.errors import InputError
from gta.memory import told


@pytest.mark.parametrize(
    "allocate", [lambda: torch.empty(2**50), lambda: np.ones(2**50), lambda: bytearray(2**62)]
)
def test_a_failed_allocation_is_one_line(allocate: Callable[[], object]) -> None:
    with (
        pytest.raises(InputError, match=r"^finetune: out of memory with 8 images: lower it \(.+\)$"),
        told("finetune", "with 8 images: lower it"),
    ):
        allocate()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")
def test_a_gpus_lack_is_one_line() -> None:
    with pytest.raises(InputError, match="out of memory with"), told("finetune", "with 8 images"):
        torch.empty(2**50, device="cuda")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), FileNotFoundError("a.png")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), told("finetune", ""):
        raise error
