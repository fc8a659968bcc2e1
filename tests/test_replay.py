"""Steps that are replayed as CUDA graphs: what was launched each time, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from tiny import training
from torch import Tensor

from gta import replay
from gta.precision import make_deterministic
from gta.replay import KINDS, Replayed
from gta.train import train

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


@pytest.fixture
def same_bits() -> Iterator[None]:
    """As stage `finetune` trains."""
    make_deterministic()
    yield
    torch.use_deterministic_algorithms(False)


class Inputs(NamedTuple):
    values: Tensor
    other: Tensor | None = None


def squares(weight: Tensor) -> Replayed[Inputs]:
    """Of the values times the weight, with random numbers in them, summed."""

    def gradient(inputs: Inputs) -> Tensor:
        drawn = torch.rand_like(inputs.values)
        loss = (inputs.values * weight + drawn).square().sum()
        if inputs.other is not None:
            loss = loss + (inputs.other * weight).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return Replayed(gradient, [weight])


def test_on_a_cpu_it_runs_as_it_comes() -> None:
    weight = torch.ones(3, requires_grad=True)
    replayed = squares(weight)
    with patch.object(Replayed, "_capture") as capture:
        for factor in (1.0, 2.0, 3.0):
            weight.grad = None
            replayed(Inputs(torch.full((3,), factor)))
            assert weight.grad is not None
    capture.assert_not_called()


def test_what_no_graph_can_keep_is_launched_each_time(caplog: pytest.LogCaptureFixture) -> None:
    class Elsewhere(Tensor):
        is_cuda = True

    weight = torch.ones(3, requires_grad=True)
    replayed, values = squares(weight), torch.ones(3).as_subclass(Elsewhere)
    with (
        patch.object(Replayed, "_launched", lambda self, inputs: self._gradient(inputs)),
        patch.object(Replayed, "_capture", side_effect=RuntimeError("not permitted\nmore")) as capture,
    ):
        for _ in range(4):
            weight.grad = None
            assert replayed(Inputs(values)) > 0
            assert weight.grad is not None
    assert capture.call_count == 1
    assert [each.message.partition(": ")[2] for each in caplog.records] == ["not permitted"]


@on_a_gpu
def test_it_gives_the_bits_of_what_is_launched() -> None:
    sizes = [4, 4, 2, 4, 2, 2, *range(5, 5 + KINDS), *range(5, 5 + KINDS), 4]
    found: list[list[Tensor]] = []
    for kinds in (KINDS, 0):
        torch.manual_seed(0)
        weight = torch.ones(3, requires_grad=True, device="cuda")
        replayed = squares(weight)
        found.append([])
        with patch.object(replay, "KINDS", kinds):
            for size in sizes:
                values = torch.randn(size, 3, device="cuda")
                weight.grad = None
                other = values[:1] if size % 2 else None
                result = replayed(Inputs(values, other))
                assert weight.grad is not None
                found[-1] += [result, weight.grad.clone(), torch.rand(1, device="cuda")]
        assert sum(each is not None for each in replayed._graphs.values()) == kinds
    for kept, launched in zip(*found, strict=True):
        assert torch.equal(kept, launched)


@on_a_gpu
@pytest.mark.usefixtures("same_bits")
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("baseline", {}),
        ("gta-1", {}),
        ("gta-1", {"accumulate": 2}),
        ("gta-1", {"gta": {"decay": "linear", "heads": [0, 2], "layers": [-1, 0]}}),
        ("gta-1", {"precision": "bf16"}),
        ("gta-1", {"precision": "bf16", "compile": True}),
        ("gta-1+transmix", {"transmix": {"probability": 0.5}}),
        ("mixup", {}),
        ("at-1", {}),
        ("l2sp-0.1", {}),
        ("delta-0.1", {}),
        ("cotuning-1", {}),
        ("lwf-1", {}),
        ("bituning-1", {}),
        ("bss-0.1", {}),
        ("lora", {}),
        ("probe", {}),
    ],
)
def test_training_ends_with_the_bits_of_launched_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str, changes: dict[str, object]
) -> None:
    found = []
    for kinds in (KINDS, 0):
        run = training(tmp_path, method, classes=5, on="cuda", **changes)
        if changes.get("compile"):
            torch._dynamo.config.skip_nnmodule_hook_guards = False
            run.model.compile(dynamic=False)
        with patch.object(replay, "KINDS", kinds):
            history = train(run, tmp_path / f"{kinds}.pt").history
        found.append((history, {name: value.clone() for name, value in run.model.state_dict().items()}))
    (rows, replayed), (launched_rows, launched) = found
    assert not [each for each in caplog.records if each.levelname == "WARNING"]
    assert rows.equals(launched_rows)
    assert all(torch.equal(replayed[name], launched[name]) for name in launched)
