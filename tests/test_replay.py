"""Steps that are replayed as CUDA graphs: what was launched each time, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock, patch

import pytest
import torch
from tiny import training
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import gta.train
from gta import replay, shards
from gta.precision import make_deterministic
from gta.replay import KINDS, Replayed, _Graph
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


class Elsewhere(Tensor):
    """On a CPU, and takes itself for one on a GPU."""

    is_cuda = True


class Again:
    """Stands in for a CUDA graph: a replay runs a function again, into the memory that is kept."""

    def __init__(self, run: Callable[[], Tensor], parameters: Sequence[Tensor]) -> None:
        self._run, self._parameters = run, parameters
        self.result = run()
        self.gradients = [parameter.grad for parameter in parameters]
        self._memory = [parameter.grad.detach() for parameter in parameters if parameter.grad is not None]

    def replay(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
        self.result.copy_(self._run())
        for memory, parameter in zip(self._memory, self._parameters, strict=True):
            assert parameter.grad is not None
            memory.copy_(parameter.grad)


@contextmanager
def without_a_gpu(capture: Callable[..., Any]) -> Iterator[Mock]:
    """Takes the place of what needs one."""

    def launched(self: Replayed[Inputs], kind: Any, inputs: Inputs) -> Tensor:
        result = self._gradient(inputs)
        self._graphs[kind] = None
        return result

    with (
        patch.object(Replayed, "_launched", launched),
        patch.object(Replayed, "_capture", autospec=True, side_effect=capture) as mock,
    ):
        yield mock


def test_what_no_graph_can_keep_is_launched_each_time(caplog: pytest.LogCaptureFixture) -> None:
    weight = torch.ones(3, requires_grad=True)
    replayed, values = squares(weight), torch.ones(3).as_subclass(Elsewhere)

    def capture(*_: Any) -> Any:
        weight.grad = torch.full((3,), 9.0)  # half done
        try:
            raise RuntimeError("not permitted\nmore")
        except RuntimeError:
            raise RuntimeError("the capture failed") from None

    with without_a_gpu(capture) as mock:
        for _ in range(4):
            weight.grad = None
            torch.manual_seed(0)
            replayed(Inputs(values))
            assert weight.grad is not None
            assert weight.grad.max() < 9
    assert mock.call_count == 1
    (record,) = caplog.records
    assert record.message.endswith("launched each time: not permitted")


def test_an_error_of_the_gradient_itself_is_raised() -> None:
    def gradient(_: Inputs) -> Tensor:
        raise RuntimeError("shapes differ")

    replayed = Replayed(gradient, [])
    with (
        patch.object(Replayed, "_launched", lambda self, _, inputs: self._gradient(inputs)),
        pytest.raises(RuntimeError, match="shapes differ"),
    ):
        replayed(Inputs(torch.ones(3).as_subclass(Elsewhere)))


def test_what_is_done_to_a_gradient_leaves_the_next_one_alone() -> None:
    """Such as by gta.shards, which gives it memory of its own, and by clipping."""
    weight = torch.ones(3, requires_grad=True)

    def gradient(inputs: Inputs) -> Tensor:
        loss = (inputs.values * weight).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def capture(_: Any, inputs: Inputs) -> Any:
        kept = Inputs(inputs.values.clone())
        again = Again(lambda: gradient(kept), [weight])
        return _Graph(again, kept, again.result, again.gradients)  # type: ignore[arg-type]

    replayed = Replayed(gradient, [weight])
    with without_a_gpu(capture):
        for factor in (1.0, 2.0, 3.0, 4.0):
            weight.grad = None
            result = replayed(Inputs(torch.full((3,), factor).as_subclass(Elsewhere)))
            assert (result.item(), weight.grad.tolist()) == (3 * factor, 3 * [factor])  # type: ignore[attr-defined]
            doubled([weight.grad])
            assert weight.grad.tolist() == 3 * [2 * factor]  # type: ignore[attr-defined]


def doubled(gradients: list[Any]) -> None:
    """What gta.shards does with those of two like processes."""
    vector_to_parameters(2 * parameters_to_vector(gradients), gradients)


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
def test_a_gradient_that_waits_for_the_gpu_is_launched(caplog: pytest.LogCaptureFixture) -> None:
    weight = torch.ones(3, requires_grad=True, device="cuda")

    def gradient(inputs: Inputs) -> Tensor:
        drawn = torch.rand_like(inputs.values)
        loss = (inputs.values * weight + drawn).sum() / inputs.values.sum().item()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    replayed = Replayed(gradient, [weight])
    for _ in range(4):
        weight.grad = None
        replayed(Inputs(torch.ones(3, device="cuda")))
        torch.testing.assert_close(weight.grad, torch.full((3,), 1 / 3, device="cuda"))
    assert len(caplog.records) == 1


@on_a_gpu
@pytest.mark.usefixtures("same_bits")
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("baseline", {}),
        ("gta-1", {}),
        ("gta-1", {"accumulate": 2}),
        ("gta-1", {"gta": {"decay": "linear", "heads": [0, 2], "layers": [-1, 0]}}),
        ("gta-1", {"processes": 2}),
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
        add_up = doubled if changes.get("processes") else shards.add_up
        with patch.object(replay, "KINDS", kinds), patch.object(gta.train, "add_up", add_up):
            history = train(run, tmp_path / f"{kinds}.pt").history
        found.append((history, {name: value.clone() for name, value in run.model.state_dict().items()}))
    (rows, replayed), (launched_rows, launched) = found
    assert not [each for each in caplog.records if each.levelname == "WARNING"]
    assert rows.equals(launched_rows)
    assert all(torch.equal(replayed[name], launched[name]) for name in launched)
