"""Which of several equal ways a model computes, by what was measured on the device (benchmarks/)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gta.attention import layout_of
from gta.precision import Precision, takes_bf16
from gta.readers import ATTENTION, class_name

MAPS_UP_TO = 1100
"""Tokens, up to which whole attention maps fit beside the other activations."""


def choose_kernels(model: Any, precision: Precision, device: torch.device) -> None:
    """Sets, in place, how a model computes where it is to be trained or read on `device`.

    On a CPU in bf16, attention by whole maps: with the fused kernel a step takes up to a third longer; and
    queries and keys in the order of the maps' product, so that reading a row needs no copy of them: 1 % of a
    step of GTA. On a GPU, patches as one matrix product, not a convolution: 2 % of a step of ViT-B. A model
    of which neither holds stays as it is.
    """
    layout = layout_of(model)
    tokens = layout.prefix + layout.grid[0] * layout.grid[1]
    if device.type == "cpu" and takes_bf16(precision, device) and tokens <= MAPS_UP_TO:
        attentions: list[Any] = list(layout.attentions)
        for attn in attentions:
            if hasattr(attn, "fused_attn"):
                attn.fused_attn = False
            if class_name(attn) == ATTENTION:
                attn.q_norm.register_forward_hook(_in_order)
                attn.k_norm.register_forward_hook(_in_order)
    patches: Any = getattr(model, "patch_embed", None)
    if device.type == "cuda" and PatchProduct.fits(getattr(patches, "proj", None)):
        patches.proj = PatchProduct(patches.proj)


def _in_order(_: nn.Module, __: Any, found: Tensor) -> Tensor:
    return found.contiguous()


class PatchProduct(nn.Module):
    """A convolution whose patches touch and do not overlap, as a matrix product; the same parameters."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    @staticmethod
    def fits(layer: nn.Module | None) -> bool:
        """Whether the layer is of that kind."""
        return (
            type(layer) is nn.Conv2d
            and layer.kernel_size == layer.stride
            and (layer.padding, layer.dilation, layer.groups) == ((0, 0), (1, 1), 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, rows, columns); what is left over at the edges is not seen."""
        high, wide = self.weight.shape[2:]
        rows, columns = images.shape[2] // high, images.shape[3] // wide
        images = images[:, :, : rows * high, : columns * wide]
        patches = images.reshape(len(images), -1, rows, high, columns, wide).permute(0, 2, 4, 1, 3, 5)
        tokens = F.linear(patches.flatten(3).flatten(1, 2), self.weight.flatten(1), self.bias)
        return tokens.transpose(1, 2).reshape(len(images), -1, rows, columns)


class Packed(nn.Module):
    """A frozen linear layer on a CPU, in bf16, its weight laid out once as oneDNN wants it in every pass.

    gelu: what follows the layer, if it is to be computed with it, before its output is rounded to bf16.
    """

    def __init__(self, layer: nn.Linear, gelu: nn.GELU | None = None) -> None:
        super().__init__()
        self.follows = ("none", "none") if gelu is None else ("gelu", gelu.approximate)
        weight = layer.weight.detach().bfloat16()
        self.bias = None if layer.bias is None else layer.bias.detach().bfloat16()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)

    @staticmethod
    def works() -> bool:
        """Whether torch has the operators, which are its compiler's own, and the processor takes bf16."""
        operators = torch.ops.mkldnn
        if not all(hasattr(operators, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
            return False
        return bool(operators._is_mkldnn_bf16_supported())

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., in) -> (..., out), bf16."""
        follows, how = self.follows
        out: Tensor = torch.ops.mkldnn._linear_pointwise(tokens, self.weight, self.bias, follows, [], how)
        return out


class GeluProduct(nn.Module):
    """A frozen linear layer on a GPU, in bf16, and the GELU after it, without a pass of its own: 2 % of a
    step of GTA of ViT-S, 4 % of a compiled one.

    cuBLAS has GELU's approximation by tanh alone: the two are 5e-4 apart at most, as much as bf16 is off
    at 1/8.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    @staticmethod
    def fits(layer: nn.Module, activation: nn.Module) -> bool:
        """Whether they are of that kind."""
        return type(layer) is nn.Linear and layer.bias is not None and type(activation) is nn.GELU

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        product = torch._addmm_activation  # the only name under which torch has it
        out = product(self.bias, tokens.flatten(0, -2), self.weight.t(), use_gelu=True)
        return out.view(*tokens.shape[:-1], -1)


MLP = "timm.layers.mlp.Mlp"
PACKED = {ATTENTION: ("qkv", "proj"), MLP: ("fc1", "fc2")}
"""Full name of a class -> its layers that are only ever called, so that they can be packed."""


def lighten(source: nn.Module, only_attention: bool, packed: bool) -> None:
    """Turns a frozen source to bf16, in place: throughout, where only its attention is read; else the weights
    of its blocks' linear layers, which autocast turns in every pass, as it remembers only what is trained.

    packed: whether a CPU is to have its layers as `Packed`, which torch.compile does not take.
    """
    if not only_attention:
        for layer in source.get_submodule("blocks").modules():
            if isinstance(layer, nn.Linear):
                layer.weight = nn.Parameter(layer.weight.bfloat16(), requires_grad=False)
        return
    source.bfloat16()
    device = next(source.parameters()).device.type
    for module in list(source.modules()):
        if device == "cuda":
            _join_gelu(module)
        elif device == "cpu" and packed and Packed.works():
            _pack(module)


def _join_gelu(module: Any) -> None:
    if class_name(module) == MLP and GeluProduct.fits(module.fc1, module.act):
        module.fc1, module.act = GeluProduct(module.fc1), nn.Identity()


def _pack(module: Any) -> None:
    for name in PACKED.get(class_name(module), ()):
        layer = getattr(module, name)
        gelu = module.act if name == "fc1" and type(module.act) is nn.GELU else None
        if type(layer) is nn.Linear:
            setattr(module, name, Packed(layer, gelu))
            if gelu is not None:
                module.act = nn.Identity()
