"""GTA's penalty against loops written from the paper, its properties, and its plumbing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gta.errors import InputError
from gta.guidance import Guide, attention_penalty
from gta.models import create_timm

SHAPES = [(1, 2, 3, 5), (2, 3, 5, 7), (3, 1, 2, 11)]


def naive(logits: Tensor, source: Tensor, distance: str, reduction: str) -> Tensor:
    """Loops over layers, images, heads and columns in float64."""
    layers, batch, heads, columns = logits.shape
    total = torch.zeros((), dtype=torch.float64)
    for layer in range(layers):
        for image in range(batch):
            for head in range(heads):
                a = [logits[layer, image, head, j].double() for j in range(columns)]
                b = [source[layer, image, head, j].double() for j in range(columns)]
                if distance == "kl":
                    log_a = [x - sum(y.exp() for y in a).log() for x in a]
                    log_b = [x - sum(y.exp() for y in b).log() for x in b]
                    total = total + sum(q.exp() * (q - p) for p, q in zip(log_a, log_b, strict=True))
                    continue
                shift = (sum(a) - sum(b)) / columns if distance == "centred" else 0
                for x, y in zip(a, b, strict=True):
                    total = total + (x - y - shift) ** 2
    count = layers * heads * (1 if distance == "kl" else columns)
    return total / batch / (count if reduction == "mean" else 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distance", ["logits", "centred", "kl"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_the_loops_in_value_and_gradient(
    shape: tuple[int, ...], distance: str, reduction: str
) -> None:
    torch.manual_seed(1)
    logits, source = torch.randn(shape, requires_grad=True), torch.randn(shape)
    got = attention_penalty(logits, source, distance=distance, reduction=reduction)
    expected = naive(logits, source, distance, reduction)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)
    (slope,) = torch.autograd.grad(got, logits)
    (expected_slope,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-4, atol=1e-6)


def test_by_hand() -> None:
    logits = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    source = torch.tensor([[[[1.0, 0.0, 0.0]]]])
    assert attention_penalty(logits, source, reduction="sum").item() == 4 + 9
    assert attention_penalty(logits, source).item() == pytest.approx(13 / 3)
    centred = attention_penalty(logits, source, distance="centred", reduction="sum").item()
    assert centred == pytest.approx(25 / 9 + 1 / 9 + 16 / 9)


@pytest.mark.parametrize("distance", ["logits", "centred", "kl"])
def test_zero_at_equality_positive_elsewhere_blind_to_a_doubled_batch(distance: str) -> None:
    logits, source = torch.randn(2, 2, 3, 5, 7)
    assert attention_penalty(logits, logits, distance=distance).item() == pytest.approx(0, abs=1e-6)
    once = attention_penalty(logits, source, distance=distance)
    assert once > 0
    twice = attention_penalty(logits.repeat(1, 2, 1, 1), source.repeat(1, 2, 1, 1), distance=distance)
    torch.testing.assert_close(twice, once)


def test_a_shift_of_the_row_costs_its_square_in_logits_and_nothing_else() -> None:
    logits = torch.randn(2, 3, 5, 7)
    assert attention_penalty(logits + 3, logits).item() == pytest.approx(9, rel=1e-5)
    for distance in ("centred", "kl"):
        assert attention_penalty(logits + 3, logits, distance=distance).item() == pytest.approx(0, abs=1e-5)


def test_is_computed_in_float32_for_bf16_logits() -> None:
    logits, source = torch.randn(2, 2, 3, 5, 7).bfloat16()
    got = attention_penalty(logits, source)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, attention_penalty(logits.float(), source.float()))


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equal shape, got \(1, 2, 3, 5\) and \(1, 1, 3, 5\)"):
        attention_penalty.__wrapped__(torch.zeros(1, 2, 3, 5), torch.zeros(1, 1, 3, 5))


def pair(**options: int) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    source = create_timm("vit_tiny_patch16_224", 48, depth=3, num_classes=0)
    model = create_timm("vit_tiny_patch16_224", 48, depth=3, num_classes=5, **options)
    model.load_state_dict(source.state_dict(), strict=False)
    return source, model


def test_starts_at_zero_and_its_gradient_reaches_the_model_alone() -> None:
    source, model = pair()
    images = torch.randn(2, 3, 48, 48)
    with Guide(source, model.train()) as guide:
        model(images)
        assert guide.penalty().item() == 0
        with torch.no_grad():
            model.blocks[0].attn.qkv.weight.mul_(1.5)
        model(images)
        guide.penalty().backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in source.parameters())
    assert not any(module.training for module in source.modules())


def test_layers_heads_and_columns_select_what_they_say() -> None:
    source, model = pair()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.mul_(1.2)
    images = torch.randn(2, 3, 48, 48)
    with Guide(source, model.train(), reduction="sum") as everything:
        model(images)
        everything.penalty()
        ours, theirs = everything._of_model.stacked(), everything.of_source.stacked()
    with Guide(source, model, layers=[-1, 0], heads=[2], columns="patches", reduction="sum") as part:
        model(images)
        got = part.penalty()
    chosen = [0, 2]
    expected = (ours[chosen][:, :, 2:3, 1:] - theirs[chosen][:, :, 2:3, 1:]).square().sum() / 2
    torch.testing.assert_close(got, expected)


def test_rows_of_an_earlier_pass_are_never_compared() -> None:
    source, model = pair()
    with Guide(source, model.train()) as guide:
        model(torch.randn(2, 3, 48, 48))
        with torch.no_grad():
            model(torch.randn(2, 3, 48, 48))
        with pytest.raises(RuntimeError, match="expected a forward pass"):
            guide.penalty()


def test_the_source_runs_only_in_training() -> None:
    source, model = pair()
    calls: list[int] = []
    source.register_forward_pre_hook(lambda *_: calls.append(1))
    with Guide(source, model):
        model.eval()(torch.randn(1, 3, 48, 48))
        with torch.no_grad():
            model.train()(torch.randn(1, 3, 48, 48))
        assert calls == []
        model(torch.randn(1, 3, 48, 48))
        assert calls == [1]


def test_the_source_stops_after_the_last_attention_that_is_read() -> None:
    source, model = pair()
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.mul_(1.5)
    ran: list[str] = []
    for name in ("blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp", "blocks.2", "norm"):
        source.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    images = torch.randn(2, 3, 48, 48)
    with Guide(source, model.train(), layers=[0, 1]) as guide:
        model(images)
        stopped = guide.penalty().item()
    assert ran == ["blocks.0.mlp"]
    with Guide(source, model, layers=[0, 1], run_source=False) as guide:
        with torch.no_grad():
            source(images)
        model(images)
        assert guide.penalty().item() == stopped > 0


def test_both_see_the_same_tensor_under_the_same_autocast() -> None:
    source, model = pair()
    seen: list[tuple[int, torch.dtype]] = []
    for network in (source, model):
        network.blocks[0].attn.qkv.register_forward_hook(lambda _, __, out: seen.append((0, out.dtype)))
        network.register_forward_pre_hook(lambda _, args: seen.append((args[0].data_ptr(), args[0].dtype)))
    with Guide(source, model.train()) as guide, torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(1, 3, 48, 48))
    assert guide.penalty().item() == 0  # to the bit, in bf16 too, and read outside of autocast
    inputs, kinds = {item[0] for item in seen if item[0]}, {item[1] for item in seen if not item[0]}
    assert len(inputs) == 1
    assert kinds == {torch.bfloat16}


def guided_step(model: nn.Module, called: nn.Module, source: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Gradients of cross-entropy and penalty."""
    with Guide(source, called.train()) as guide:
        loss = nn.functional.cross_entropy(called(images), torch.zeros(len(images), dtype=torch.long))
        (loss + guide.penalty()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def moved_pair() -> tuple[nn.Module, nn.Module]:
    source, model = pair()
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.mul_(1.5)
    return source, model


def one_of_two_processes(rank: int, folder: Path, images: Tensor) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    source, model = moved_pair()
    gradients = guided_step(model, DistributedDataParallel(model), source, images[rank::2])
    if rank == 0:
        torch.save(gradients, folder / "gradients.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    images = torch.randn(4, 3, 48, 48)
    torch.multiprocessing.spawn(one_of_two_processes, (tmp_path, images), nprocs=2)
    source, model = moved_pair()
    torch.testing.assert_close(
        torch.load(tmp_path / "gradients.pt"), guided_step(model, model, source, images), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3]}, r"layers: expected numbers from -3 to 2 or 'all', got \[3\]"),
        ({"heads": [-4, 0]}, r"heads: expected numbers from -3 to 2"),
        ({"layers": []}, "layers: expected"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, list[int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Guide(*pair(), **options)


@pytest.mark.parametrize(
    ("name", "size", "options", "what"),
    [
        ("vit_tiny_patch16_224", 64, {"depth": 3}, "patch grid"),
        ("vit_tiny_patch16_224", 48, {"depth": 2}, "blocks"),
        ("vit_tiny_patch16_224", 48, {"depth": 3, "num_heads": 6}, "heads"),
        ("deit_tiny_distilled_patch16_224", 48, {"depth": 3}, "prefix tokens"),
    ],
)
def test_unlike_models_are_refused(name: str, size: int, options: dict[str, int], what: str) -> None:
    with pytest.raises(InputError, match=f"differ in {what}"):
        Guide(pair()[0], create_timm(name, size, **options))
