"""The `source` section: the frozen pretrained model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gta.params.section import Section

Colour = Annotated[list[float], Field(min_length=3, max_length=3)]


class Source(Section):
    """Where fine-tuning starts, and whose attention guides it."""

    model: str
    """A name of timm's, with its tag where the weights come from the hub, such as
    `vit_small_patch16_224.dino`; or `demo_vit`, which the demo adds to timm."""
    weights: str
    """`hub`: the weights that timm names, from the Hugging Face hub or its local cache; else an address
    (http, https) or the path of a file (.safetensors, .pth, .bin; loaded as weights only, never unpickled
    freely)."""
    layout: Literal["timm", "mocov3", "ibot"]
    """Whose names the tensors of a file have: timm's, or those of the original checkpoints of MoCo v3 (then
    `model` is `vit_small_patch16_224` or `vit_base_patch16_224`) or iBOT."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    """Checksum that the file must have; null where it is not known, or for `hub`."""
    image_size: Annotated[int, Field(ge=16, le=1024)] | None
    """Height and width in pixels that the models see; a multiple of the patch size. null: the model's own."""
    crop: Annotated[float, Field(gt=0, le=1)] | None
    """For validation and evaluation: side of the central square that is seen over the image's shorter
    side. 0.875 is the usual 256 -> 224. null: the model's own; 0.875 for original checkpoints."""
    mean: Colour | None
    """Mean of the three colour channels in [0, 1] for normalisation; null: the model's own;
    ImageNet's for original checkpoints."""
    std: Colour | None
    """Their standard deviation; null: the model's own."""

    @model_validator(mode="after")
    def _file_of_that_layout(self) -> Source:
        if self.layout != "timm" and self.weights == "hub":
            raise ValueError(f"weights: expected an address or a path for layout {self.layout!r}, got 'hub'")
        return self
