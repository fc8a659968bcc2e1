"""The `evaluate` section: how a fine-tuned model is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gta.params.section import Section

LOCALISATION = ("mass", "hit", "iou", "corloc", "jaccard", "jaccard_best", "jaccard_chosen")
"""How much the attention looks at an object, each in [0, 1]; see `gta.localisation.localised`."""

PER_HEAD = ("entropy", "distance", "kl", "mass_mask", "mass_box")
"""Of the [CLS] attention of one head of one block; see `gta.heads.per_head`."""


class Evaluate(Section):
    """Accuracy, calibration, and how much the attention looks at the object."""

    batch_size: Annotated[int, Field(ge=1)]
    """Images at a time; no effect on results beyond rounding."""
    workers: Annotated[int, Field(ge=0)]
    """Processes that read images; 0: the evaluating process itself."""
    precision: Literal["fp32", "bf16", "auto"]
    """Autocast, as in `finetune`."""
    ece_bins: Annotated[int, Field(ge=1)]
    """Bins of equal width for the expected calibration error."""
    layer: int
    """Block whose [CLS] attention is measured, from 0; -1 is the last."""
    heads: Literal["mean", "max"]
    """How the heads' maps become one before it is normalised to 1 over the patches."""
    keep: Annotated[float, Field(gt=0, le=1)]
    """Share of the attention that makes a segmentation and a box: the strongest patches that hold it."""
    pictures: Annotated[int, Field(ge=0, le=100)]
    """Test images of each data set whose attention is shown; 0: none."""
