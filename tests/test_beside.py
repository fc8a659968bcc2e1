"""The source beside the model: what it saves changes no row by more than rounding."""

from __future__ import annotations

import copy

import timm
import torch
from torch import nn

from gta.attention import record_logits
from gta.beside import beside
from gta.guidance import Guide
from gta.kernels import lighten


def pair() -> tuple[nn.Module, nn.Module]:
    """A source, and a model that is another."""
    torch.manual_seed(0)
    source, model = (
        timm.create_model("vit_tiny_patch16_224", img_size=48, depth=3, num_classes=5) for _ in range(2)
    )
    return source, model.train()


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
