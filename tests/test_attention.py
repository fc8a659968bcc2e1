"""The recorder against attention computed in full, on every attention class that it reads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gta.demo_vit  # noqa: F401 registers the demo's model with timm
from gta.attention import LogitRecorder, layout_of, record_logits
from gta.errors import InputError

SMALL = {"img_size": 64, "depth": 2, "global_pool": "token"}
MODELS: dict[str, dict[str, Any]] = {
    "demo_vit": {},
    "vit_tiny_patch16_224": {"img_size": 48, "depth": 3},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "depth": 2},
    "deit_tiny_distilled_patch16_224": {"img_size": 48, "depth": 2},
    "vit_small_patch16_dinov3": SMALL,  # rotary positions, five prefix tokens
    "eva02_tiny_patch14_224": {**SMALL, "img_size": 42},
    "vit_pe_core_small_patch16_384": SMALL,
    "vit_base_patch16_xp_224": SMALL,  # q and k norms, attention and MLP in parallel
    "vit_relpos_base_patch16_cls_224": SMALL,
    "beit_base_patch16_224": SMALL,
    "vit_large_patch14_clip_224": {**SMALL, "img_size": 56},
}


def build(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=5, **{**MODELS[name], **options})
    for key, parameter in model.named_parameters():
        if "relative_position" in key:
            nn.init.normal_(parameter)  # zero at the start, which would hide a bias that is left out
    return model.eval()


def fuse(model: nn.Module, fused: bool) -> None:
    for attn in layout_of(model).attentions:
        attn.fused_attn = fused


def eager_maps(model: nn.Module, images: Tensor) -> Tensor:
    """The softmax maps that the blocks themselves build when they are not fused: (layers, B, heads, N, N)."""
    maps: list[Tensor] = []
    fuse(model, False)
    handles = [
        attn.attn_drop.register_forward_pre_hook(lambda _, args: maps.append(args[0]))
        for attn in layout_of(model).attentions
    ]
    model(images)
    for handle in handles:
        handle.remove()
    fuse(model, True)
    return torch.stack(maps)


@torch.no_grad()
def assert_same_as_eager(model: nn.Module, size: int) -> None:
    images = torch.randn(2, 3, size, size)
    expected = eager_maps(model, images)
    layers = range(len(expected))
    for rows, wanted in (("cls", expected[..., 0, :]), ("all", expected)):
        with record_logits(model, layers, rows) as recorder:
            model(images)
        torch.testing.assert_close(recorder.stacked().softmax(-1), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_those_of_the_eager_map(name: str) -> None:
    assert_same_as_eager(build(name), MODELS[name].get("img_size", 48))


def test_grouped_queries() -> None:
    model = build("vit_pe_core_small_patch16_384", num_kv_heads=2, qkv_fused=False)
    assert model.blocks[0].attn.k_proj.out_features < model.blocks[0].attn.q_proj.out_features
    assert_same_as_eager(model, 64)


def hugging_face(kind: str, implementation: str) -> nn.Module:
    import transformers

    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=48
    )
    config.patch_size = 16
    config._attn_implementation = implementation
    model: nn.Module = getattr(transformers, f"{kind}Model")(config)
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "prefix"), [("ViT", 1), ("DeiT", 2), ("Dinov2", 1), ("Dinov2WithRegisters", 5)]
)
@torch.no_grad()
def test_hugging_face(kind: str, prefix: int) -> None:
    images = torch.randn(2, 3, 48, 48)
    maps = hugging_face(kind, "eager")(pixel_values=images, output_attentions=True).attentions
    model = hugging_face(kind, "sdpa")
    assert layout_of(model)[1:] == ([3, 3], prefix, (3, 3))
    with record_logits(model, [0, 1], "all") as recorder:
        model(pixel_values=images)
    torch.testing.assert_close(recorder.stacked().softmax(-1), torch.stack(maps), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_torchvision() -> None:
    torch.manual_seed(3)
    model = torchvision.models.VisionTransformer(32, 16, 2, 4, 24, 48).eval()
    seen: list[Tensor] = []
    model.encoder.layers[1].self_attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with record_logits(model, [1]) as recorder:
        model(torch.randn(2, 3, 32, 32))
    attn, (tokens,) = model.encoder.layers[1].self_attention, seen
    _, maps = attn(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)
    torch.testing.assert_close(recorder.rows[1].softmax(-1), maps[:, :, 0], rtol=1e-5, atol=1e-6)
    assert layout_of(model)[1:] == ([4, 4], 1, (2, 2))


@pytest.mark.parametrize("way", ["wrapped", "in place"])
def test_a_compiled_model_gives_the_same_rows_and_gradients(way: str) -> None:
    images, found = torch.randn(2, 3, 48, 48), []
    for compiled in (False, True):
        model = build("vit_tiny_patch16_224")
        called: Any = model
        if compiled and way == "wrapped":
            called = torch.compile(model, backend="aot_eager")
        elif compiled:
            model.compile(backend="aot_eager")
        with record_logits(called, [0, 2]) as recorder:
            for _ in range(2):  # the second pass runs what the first one compiled
                called(images)
            rows = recorder.stacked()
            rows.square().mean().backward()
        found.append((rows.detach(), model.blocks[0].attn.qkv.weight.grad))
    torch.testing.assert_close(found[1], found[0])


def changed_norm(model: Any) -> None:
    model.blocks[0].attn.q_norm.register_forward_hook(lambda _m, _i, q: 2 * q)


def other_projection(model: Any) -> None:
    attn = model.blocks[0].attn
    attn.qkv = torch.nn.Sequential(attn.qkv, torch.nn.Tanh())


@pytest.mark.parametrize(
    ("options", "before", "within"),
    [
        ({"qk_norm": True}, None, None),
        ({}, changed_norm, None),
        ({}, None, other_projection),
    ],
)
def test_a_compiled_model_is_read_where_its_attention_reads(
    options: dict[str, bool],
    before: Callable[[Any], None] | None,
    within: Callable[[Any], None] | None,
) -> None:
    images, found = torch.randn(2, 3, 48, 48), []
    for compiled in (False, True):
        model = build("vit_tiny_patch16_224", **options)
        if before is not None:
            before(model)
        if compiled:
            model.compile(backend="aot_eager")
        with record_logits(model, [0, 2]) as recorder:
            model(images)
            if within is not None:
                within(model)
                model(images)
            found.append(recorder.stacked())
    torch.testing.assert_close(found[1], found[0])


def test_what_was_compiled_without_hooks_is_not_run_in_place_of_a_recorded_model() -> None:
    torch.compiler.reset()
    with patch.object(torch._dynamo.config, "skip_nnmodule_hook_guards", True):  # torch's default
        for recorded in (False, True, True):
            model = build("vit_tiny_patch16_224")
            model.compile(backend="aot_eager")
            with record_logits(model, [0, 2]) if recorded else nullcontext(LogitRecorder()) as recorder:
                model(torch.randn(2, 3, 48, 48))
            assert sorted(recorder.rows) == ([0, 2] if recorded else [])


@pytest.mark.parametrize("fused", [True, False])
def test_gradient_is_that_of_the_full_map(fused: bool) -> None:
    model = build("vit_tiny_patch16_224")
    fuse(model, fused)
    images = torch.randn(2, 3, 48, 48)
    attn = model.blocks[1].attn
    tokens = model.blocks[0](model._pos_embed(model.patch_embed(images)))
    q, k, _ = attn.qkv(model.blocks[1].norm1(tokens)).view(2, 10, 3, 3, 64).permute(2, 0, 3, 1, 4)
    full = q @ k.transpose(-2, -1) / 64**0.5
    weights = torch.randn(2, 3, 10)
    (expected,) = torch.autograd.grad((full[:, :, 0] * weights).sum(), attn.qkv.weight)
    with record_logits(model, [1]) as recorder:
        model(images)
        (got,) = torch.autograd.grad((recorder.rows[1] * weights).sum(), attn.qkv.weight)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_masks_are_refused() -> None:
    model = build("vit_tiny_patch16_224")
    with record_logits(model, [0]), pytest.raises(InputError, match="over all tokens, got attn_mask"):
        model.blocks[0].attn(torch.randn(1, 10, 192), attn_mask=torch.zeros(10, 10))


def test_hooks_are_gone_afterwards() -> None:
    model = build("demo_vit")
    with pytest.raises(ZeroDivisionError), record_logits(model, range(4)):
        1 / 0  # noqa: B018
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sum(hooks) == 0


def test_each_pass_replaces_the_rows_of_the_last() -> None:
    model = build("demo_vit")
    first, second = torch.randn(2, 1, 3, 48, 48)
    with record_logits(model, [0]) as recorder:
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
        with record_logits(model, range(4)) as recorder:
            (model(images).square().mean() + recorder.stacked().square().mean()).backward()
        gradients.append(model.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_reentrant_checkpoints_are_refused() -> None:
    model = build("demo_vit").train()
    block = model.blocks[0]
    inner = block.forward
    block.forward = lambda tokens, **_: checkpoint(inner, tokens, use_reentrant=True)
    with record_logits(model, [0]), pytest.raises(InputError, match="use_reentrant=False"):
        model(torch.randn(2, 3, 48, 48))


def test_older_transformers_are_refused() -> None:
    model = hugging_face("ViT", "sdpa")
    for module in model.modules():
        if hasattr(module, "q_proj"):
            del module.q_proj
    with pytest.raises(InputError, match="ViTModel: expected the classes of transformers 5 or newer"):
        layout_of(model)


def test_reading_before_any_pass_is_refused() -> None:
    with (
        record_logits(build("demo_vit"), [0]) as recorder,
        pytest.raises(RuntimeError, match="forward pass"),
    ):
        recorder.stacked()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_base_patch16_siglip_224", {"img_size": 32}, "no \\[CLS\\] token"),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, "reads 'avg' pooling"),
        ("vit_tiny_patch16_224", {"patch_drop_rate": 0.5}, "patch dropout"),
        ("vit_tiny_patch16_224", {"attn_layer": "diff", "depth": 1}, "subtracts two attention maps"),
        ("convit_tiny", {}, r"timm\.models\.convit\.GPSA is not supported: it blends"),
        ("cait_xxs24_224", {}, "TalkingHeadAttn is not supported"),
        ("vit_dlittle_patch16_reg1_gap_256", {"img_size": 64}, "no \\[CLS\\] token"),
        ("resnet18", {}, "one sequence of blocks"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(
    name: str, options: dict[str, object], message: str
) -> None:
    model = timm.create_model(name, **options)
    with pytest.raises(InputError, match=message):
        layout_of(model)
