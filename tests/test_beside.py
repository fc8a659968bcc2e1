"""The source beside the model: what it saves changes no row by more than rounding."""

from __future__ import annotations

import copy
from unittest.mock import Mock, patch

import pytest
import timm
import torch
from torch import Tensor, nn

from gta.attention import record_logits
from gta.beside import SHAPES, _Replayed, beside
from gta.guidance import Guide
from gta.kernels import lighten

LAYERS = range(3)


def pair(device: str = "cpu") -> tuple[nn.Module, nn.Module]:
    """A source, and a model that is another."""
    torch.manual_seed(0)
    source, model = (
        timm.create_model("vit_tiny_patch16_224", img_size=48, depth=3, num_classes=5) for _ in range(2)
    )
    return source.to(device), model.to(device).train()


def test_a_source_in_bf16_starts_where_its_model_is() -> None:
    """But for rounding, to which the penalty then amounts."""
    source, _ = pair()
    model = copy.deepcopy(source).train()
    lighten(source, only_attention=True, packed=True)
    with Guide(source, model) as guide, torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 3, 48, 48))
        rows = guide.of_source.stacked()
        assert 0 < guide.penalty().item() < 1e-3 * rows.var().item()


def test_it_ends_once_all_that_is_read_is_had() -> None:
    source, model = pair()
    ran: list[int] = []
    for number, block in enumerate(source.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    with record_logits(source, [0]) as first, record_logits(source, [1], "all") as second:
        with beside(source, model, [first, second]):
            model(torch.randn(2, 3, 48, 48))
        assert (ran, list(first.rows), list(second.rows)) == ([0], [0], [1])
        source(torch.randn(2, 3, 48, 48))  # afterwards it runs to its end
    assert ran == [0, 0, 1, 2]


def test_it_runs_to_its_end_where_other_things_are_read() -> None:
    source, model = pair()
    ran: list[int] = []
    source.head.register_forward_hook(lambda *_: ran.append(1))
    with beside(source, model):
        model(torch.randn(2, 3, 48, 48))
    assert ran == [1]


def test_a_pass_that_no_graph_can_keep_runs_each_time(caplog: pytest.LogCaptureFixture) -> None:
    on_a_gpu, seen = Mock(is_cuda=True, shape=(4, 3, 48, 48)), []
    replayed = _Replayed(seen.append, [])
    with patch.object(replayed, "_capture", side_effect=RuntimeError("not permitted\nmore")) as capture:
        for _ in range(2):
            replayed(on_a_gpu)
    assert (seen, capture.call_count) == ([on_a_gpu] * 2, 1)
    assert [each.message.partition(": ")[2] for each in caplog.records] == ["not permitted"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_replayed_source_gives_the_rows_of_one_that_runs() -> None:
    source, model = pair("cuda")
    lighten(source, only_attention=True, packed=True)
    sizes = [4, 4, 2, 4, 2, *range(5, 5 + SHAPES), 4]
    batches = [torch.randn(size, 3, 48, 48, device="cuda") for size in sizes]
    found: list[list[Tensor]] = []
    for replayed in (False, True):
        with (
            record_logits(source, LAYERS) as recorder,
            beside(source, model, [recorder], replayed=replayed),
            torch.autocast("cuda", torch.bfloat16),
        ):
            found.append([])
            for batch in batches:
                model(batch)
                found[-1].append(recorder.stacked().clone())
    for ran, replayed_one in zip(*found, strict=True):
        torch.testing.assert_close(replayed_one, ran)
