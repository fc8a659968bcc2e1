"""Registers `demo_vit` with timm: a ViT small enough to fine-tune in seconds on a CPU.

It is timm's VisionTransformer in every part but the first: three convolutions in place of the linear
patch projection (Xiao et al., 2021, arXiv 2106.14881). With that projection a model of this size does
not learn to find the glyph in 2,000 steps, nor where the convolutions have no norm between them.
"""

from __future__ import annotations

from typing import Any

from timm.layers import PatchEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

default_cfgs = generate_default_cfgs(
    {
        "demo_vit": {
            "input_size": (3, 48, 48),
            "num_classes": 37,  # the letters that the source was taught
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "patch_embed.proj.0",
            "classifier": "head",
            "license": "mit",
        }
    }
)


class ConvStem(PatchEmbed):  # type: ignore[misc]  # timm is Any to mypy
    """images (B, 3, H, W) -> patches (B, N, embed_dim), one of 6 x 6 pixels, each seeing 13 x 13."""

    def __init__(self, *args: Any, embed_dim: int, **options: Any) -> None:
        super().__init__(*args, embed_dim=embed_dim, **options)
        width = embed_dim // 2
        self.proj = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=3, padding=1),
            nn.GroupNorm(width // 8, width),
            nn.GELU(),
            nn.Conv2d(width, embed_dim, 3, stride=2, padding=1),
            nn.GroupNorm(embed_dim // 8, embed_dim),
            nn.GELU(),
            nn.Conv2d(embed_dim, embed_dim, 3, padding=1),
        )


@register_model  # type: ignore[untyped-decorator]  # likewise
def demo_vit(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """0.6 million weights; 8 x 8 patches at its own 48 pixels."""
    shape = {"img_size": 48, "patch_size": 6, "embed_dim": 96, "depth": 4, "num_heads": 3}
    model: VisionTransformer = build_model_with_cfg(
        VisionTransformer,
        "demo_vit",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        **{**shape, "embed_layer": ConvStem, **options},
    )
    for block in model.blocks:
        block.attn.fused_attn = False  # 65 tokens are too few for the fused kernel to pay on a CPU
    return model
