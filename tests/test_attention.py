"""The recorder against attention computed in full, on every attention class that the spine supports."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from gta.attention import check_readable, record_cls_logits
from gta.errors import InputError

MODELS = {
    "demo_vit": {},
    "vit_tiny_patch16_224": {"img_size": 48, "depth": 3},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "depth": 2},
    "deit_tiny_distilled_patch16_224": {"img_size": 48, "depth": 2},
    "vit_small_patch16_dinov3": {"img_size": 64, "depth": 2, "global_pool": "token"},
    "eva02_tiny_patch14_224": {"img_size": 42, "depth": 2, "global_pool": "token"},
}


def build(name: str, fused: bool = True) -> nn.Module:
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=5, **MODELS[name])
    for block in model.blocks:
        block.attn.fused_attn = fused
    return model.eval()


def eager_rows(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The [CLS] rows of the softmax maps that the blocks themselves build when they are not fused."""
    rows: list[Tensor] = []
    handles = [
        block.attn.attn_drop.register_forward_pre_hook(lambda _, args: rows.append(args[0][:, :, 0]))
        for block in model.blocks
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return rows


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_those_of_the_eager_map(name: str) -> None:
    model = build(name, fused=False)
    images = torch.randn(2, 3, *[MODELS[name].get("img_size", 48)] * 2)
    with torch.no_grad():
        expected = eager_rows(model, images)
        for block in model.blocks:
            block.attn.fused_attn = True
        with record_cls_logits(model, range(len(model.blocks))) as recorder:
            model(images)
    got = recorder.stacked().softmax(-1)
    torch.testing.assert_close(got, torch.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_gradient_is_that_of_the_full_map(fused: bool) -> None:
    model = build("vit_tiny_patch16_224", fused)
    images = torch.randn(2, 3, 48, 48)
    attn = model.blocks[1].attn
    tokens = model.blocks[0](model._pos_embed(model.patch_embed(images)))
    q, k, _ = attn.qkv(model.blocks[1].norm1(tokens)).view(2, 10, 3, 3, 64).permute(2, 0, 3, 1, 4)
    full = q @ k.transpose(-2, -1) / 64**0.5
    weights = torch.randn(2, 3, 10)
    (expected,) = torch.autograd.grad((full[:, :, 0] * weights).sum(), attn.qkv.weight)
    with record_cls_logits(model, [1]) as recorder:
        model(images)
        (got,) = torch.autograd.grad((recorder.rows[1] * weights).sum(), attn.qkv.weight)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_hooks_are_gone_afterwards() -> None:
    model = build("demo_vit")
    with pytest.raises(ZeroDivisionError), record_cls_logits(model, range(4)):
        1 / 0  # noqa: B018
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sum(hooks) == 0


def test_each_pass_replaces_the_rows_of_the_last() -> None:
    model = build("demo_vit")
    first, second = torch.randn(2, 1, 3, 48, 48)
    with record_cls_logits(model, [0]) as recorder:
        model(first)
        before = recorder.rows[0]
        model(second)
        assert not torch.equal(before, recorder.rows[0])


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    images = torch.randn(2, 3, 48, 48)
    gradients = []
    for checkpointing in (False, True):
        model = build("demo_vit").train()
        model.set_grad_checkpointing(checkpointing)
        with record_cls_logits(model, range(4)) as recorder:
            (model(images).square().mean() + recorder.stacked().square().mean()).backward()
        gradients.append(model.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_reading_before_any_pass_is_refused() -> None:
    with (
        record_cls_logits(build("demo_vit"), [0]) as recorder,
        pytest.raises(RuntimeError, match="forward pass"),
    ):
        recorder.stacked()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_base_patch16_siglip_224", {"img_size": 32}, "no \\[CLS\\] token"),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, "reads 'avg' pooling"),
        ("vit_tiny_patch16_224", {"patch_drop_rate": 0.5}, "patch dropout"),
        ("beit_base_patch16_224", {"global_pool": "token"}, "lacks q_norm, k_norm"),
        ("vit_dlittle_patch16_reg1_gap_256", {"img_size": 64}, "no \\[CLS\\] token"),
        ("resnet18", {}, "blocks\\[i\\].attn"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(
    name: str, options: dict[str, object], message: str
) -> None:
    model = timm.create_model(name, **options)
    with pytest.raises(InputError, match=message):
        check_readable(model)
