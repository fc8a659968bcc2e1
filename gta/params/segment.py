"""The `segment` section: how well attention segments objects, on which images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gta.params.grid import DatasetName, unique
from gta.params.section import Section


class Segment(Section):
    """Attention-map segmentation of sets of images with masks, by the source and by every model."""

    on: Annotated[list[DatasetName], AfterValidator(unique)]
    """Names of entries of the `download` section that have masks, in the grid or not; their test images are
    segmented. Empty: nothing is."""
    images: Annotated[int, Field(ge=1)]
    """At most so many images of each set, drawn by `seed`."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of that draw, and of which half of the images an image is in."""
    image_size: Annotated[int, Field(ge=16, le=2048)] | None
    """Height and width in pixels at which models and masks see the whole image, whatever its shape; a
    multiple of the patch size. null: the source's."""
    keep: Annotated[float, Field(gt=0, le=1)]
    """Share of a map's attention that makes a segmentation: the strongest patches that hold it. DINO: 0.6."""
    pictures: Annotated[int, Field(ge=0, le=100)]
    """Images of each set that the figures show; 0: none."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images at a time; no effect on results beyond rounding."""
    workers: Annotated[int, Field(ge=0)]
    """Processes that read images; 0: the segmenting process itself."""
    precision: Literal["fp32", "bf16", "auto"]
    """Autocast, as in `finetune`."""
