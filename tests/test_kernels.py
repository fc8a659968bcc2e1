"""Other ways to compute the same: equal to the bit, or within the tolerance that is stated."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from tiny import CARD
from torch import Tensor, nn

from gta.attention import layout_of, record_logits
from gta.kernels import GeluProduct, Packed, PatchProduct, choose_kernels, lighten
from gta.models import create
from gta.precision import autocast

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ON_A_GPU = pytest.param(GPU, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
LAYERS = range(12)


def tiny(name: str = "vit_tiny_patch16_224", **options: int | str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, **{"img_size": 48, "num_classes": 5, **options})
    return model.eval()


def rows_of(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad(), record_logits(model, LAYERS) as recorder:
        model(images)
    return recorder.stacked()


@pytest.mark.parametrize(
    ("precision", "device", "size", "fused"),
    [("bf16", CPU, 48, False), ("fp32", CPU, 48, True), ("bf16", GPU, 48, True), ("bf16", CPU, 560, True)],
)
def test_attention_is_by_whole_maps_on_a_cpu_in_bf16(
    precision: str, device: torch.device, size: int, fused: bool
) -> None:
    model = tiny(img_size=size, depth=1)
    choose_kernels(model, precision, device)
    assert [attn.fused_attn for attn in layout_of(model).attentions] == [fused]


def test_patches_as_a_product_are_those_of_the_convolution() -> None:
    model, images = tiny(depth=2), torch.randn(2, 3, 48, 48)
    other = copy.deepcopy(model)
    choose_kernels(other, "bf16", GPU)
    assert isinstance(other.patch_embed.proj, PatchProduct)
    assert other.state_dict().keys() == model.state_dict().keys()
    for network in (model, other):
        network(images).square().mean().backward()
    torch.testing.assert_close(other(images), model(images))
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_what_is_left_over_at_the_edges_is_seen_by_neither() -> None:
    convolution, images = nn.Conv2d(3, 8, (4, 6), (4, 6)), torch.randn(2, 3, 15, 20)
    torch.testing.assert_close(PatchProduct(convolution)(images), convolution(images))


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"stride": 4, "padding": 1}, {"stride": 4, "groups": 3}, {"dilation": 2}]
)
def test_other_convolutions_stay(options: dict[str, int]) -> None:
    assert not PatchProduct.fits(nn.Conv2d(3, 6, 4, **options))


def test_a_stem_of_convolutions_stays() -> None:
    model = timm.create_model("demo_vit", num_classes=5)
    before = type(model.patch_embed)
    choose_kernels(model, "bf16", GPU)
    assert type(model.patch_embed) is before


@pytest.mark.skipif(not Packed.works(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_the_same_bits(bias: bool) -> None:
    layer, tokens = nn.Linear(48, 96, bias).bfloat16(), torch.randn(2, 10, 48).bfloat16()
    with torch.no_grad():
        assert torch.equal(Packed(layer)(tokens), layer(tokens))


@pytest.mark.skipif(not Packed.works(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_within_a_packed_layer_is_that_of_float32_rounded(approximate: str) -> None:
    layer, gelu = nn.Linear(48, 96).bfloat16(), nn.GELU(approximate)
    tokens = torch.randn(2, 10, 48).bfloat16()
    with torch.no_grad():
        found, exact = Packed(layer, gelu)(tokens).float(), gelu(layer.float()(tokens.float()))
    assert (found - exact).abs().max() <= 2**-8 * exact.abs().max()


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("device", [CPU, ON_A_GPU])
def test_gelu_within_a_product_is_that_of_float32_but_for_rounding(
    device: torch.device, approximate: str
) -> None:
    """GELU's slope is 1.13 at most, and the product is rounded before it."""
    torch.manual_seed(0)
    layer, gelu = nn.Linear(48, 96).bfloat16().to(device), nn.GELU(approximate)
    tokens = 2 * torch.randn(2, 10, 48, device=device).bfloat16()
    assert GeluProduct.fits(layer, gelu)
    with torch.no_grad():
        found, product = GeluProduct(layer)(tokens).float(), layer.float()(tokens.float())
    assert found.shape == (2, 10, 96)
    rounding = 2**-8 * (1.13 * product.abs() + gelu(product).abs())
    assert ((found - gelu(product)).abs() <= rounding + 5e-4).all()


def test_other_activations_stay() -> None:
    assert not GeluProduct.fits(nn.Linear(4, 8), nn.ReLU())
    assert not GeluProduct.fits(nn.Linear(4, 8, bias=False), nn.GELU())


def test_queries_and_keys_lie_in_order_where_whole_maps_are_made() -> None:
    """The same logits and gradients."""
    images, found = torch.randn(2, 3, 48, 48), []
    for chosen in (False, True):
        model = tiny(depth=2)
        for attn in layout_of(model).attentions:
            attn.fused_attn = False
        if chosen:
            choose_kernels(model, "bf16", CPU)
        keys: list[Tensor] = []
        model.blocks[0].attn.k_norm.register_forward_hook(lambda _m, _i, k, keys=keys: keys.append(k))
        with record_logits(model, range(2)) as recorder:
            model(images).square().mean().backward()
        assert keys[0].is_contiguous() == chosen
        found.append([recorder.stacked(), *(weight.grad for weight in model.parameters())])
    for usual, other in zip(*found, strict=True):
        torch.testing.assert_close(usual, other)


@pytest.mark.parametrize("device", [CPU, ON_A_GPU])
def test_a_source_in_bf16_is_as_close_to_float32_as_autocast(device: torch.device) -> None:
    """To within a half more: both round to bf16, the source its sums of blocks too."""
    images = torch.randn(4, 3, 48, 48, device=device)
    exact = rows_of(tiny().to(device), images)
    with autocast("bf16", device):
        usual = (rows_of(tiny().to(device), images) - exact).square().mean()
    for packed in (False, True):
        source = tiny().to(device)
        lighten(source, only_attention=True, packed=packed)
        found = rows_of(source, images.bfloat16())
        assert (found - exact).square().mean().sqrt() < 1.5 * usual.sqrt()


def test_a_packed_source_gives_the_same_bits_where_its_gelu_is_not_torchs_own() -> None:
    images, found = torch.randn(4, 3, 48, 48).bfloat16(), []
    for packed in (False, True):
        source = tiny(act_layer="gelu_tanh")
        lighten(source, only_attention=True, packed=packed)
        found.append(rows_of(source, images))
    assert torch.equal(*found)


def test_what_is_read_otherwise_keeps_every_bit_under_autocast() -> None:
    torch.manual_seed(0)
    source, images = create(CARD).eval(), torch.randn(2, 3, 32, 32)
    rows = []
    for _ in range(2):
        with autocast("bf16", CPU):
            rows.append(rows_of(source, images))
        lighten(source, only_attention=False, packed=True)
    assert source.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert source.norm.weight.dtype == torch.float32
    assert torch.equal(*rows)


def test_weights_that_the_attention_reads_itself_are_not_packed() -> None:
    source = tiny("beit_base_patch16_224", global_pool="token", depth=1)
    lighten(source, only_attention=True, packed=True)
    with torch.no_grad(), record_logits(source, [0]) as recorder:
        source(torch.randn(1, 3, 48, 48).bfloat16())
    assert recorder.stacked().shape == (1, 1, 12, 10)
