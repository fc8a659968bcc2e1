"""The `finetune` section: the training loop, and the options of the methods' terms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gta.params.section import Section
from gta.params.terms import At, Bituning, Bss, Delta, Gta, L2sp, Lora, Lwf, Mixing

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


WITHOUT_EFFECT = {"workers", "processes", "accumulate", "checkpoint_seconds", "targets_gb"}
"""Keys on which no result depends, beyond rounding: a change makes no cell stale."""


class Finetune(Section):
    """One training loop for every method."""

    epochs: Annotated[int, Field(ge=1, le=10_000)]
    """Passes over the training images."""
    min_steps: Count
    """Small fractions go on for more epochs until they have made this many steps; 0: never."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images a step; the last batch of an epoch may be smaller."""
    optimizer: Literal["adamw", "sgd"]
    """AdamW, or SGD with Nesterov momentum."""
    lr: Positive
    """Highest learning rate of the backbone's last block."""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    """SGD's momentum, or AdamW's first beta."""
    weight_decay: NotNegative
    """Weight decay of matrices; biases, norms, positions and the [CLS] token have none."""
    head_lr_scale: Positive
    """The head's learning rate over the backbone's."""
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    """Each block's learning rate over that of the block above it; 1: all alike."""
    warmup: Share
    """Share of all steps over which the learning rate rises linearly; then it falls along a cosine to 0."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Probability taken from the label and spread over all classes."""
    clip_norm: Positive | None
    """Largest norm of the gradient; null: no limit."""
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    """Stochastic depth: rate at the last block, rising linearly from 0 at the first."""
    precision: Literal["fp32", "bf16", "auto"]
    """Autocast: `auto` takes bf16 where the processor computes it natively."""
    compile: bool
    """torch.compile for model and source: half a minute a seed at the start, then faster steps on a GPU. Not
    where it finds no compiler."""
    deterministic: bool
    """The same bits each time on the same machine, also after an interruption. Costs nothing on a CPU."""
    crop_scale: Annotated[list[Share], Field(min_length=2, max_length=2)]
    """RandomResizedCrop: smallest and largest share of the image's area."""
    crop_ratio: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    """RandomResizedCrop: smallest and largest width over height."""
    flip: Share
    """Probability of a left-right flip."""
    rand_augment: str | None
    """timm's RandAugment, such as `rand-m9-mstd0.5-inc1`; null: none."""
    validate_every: Count
    """Epochs between validations that go into history.csv, the last epoch always included; 0: none."""
    workers: Count
    """Processes that read images; 0: the training process itself. No effect on results."""
    processes: Annotated[int, Field(ge=1)]
    """Processes that share each batch, one a GPU, by torchrun's launcher. No effect on results beyond
    rounding and what dropout and stochastic depth draw."""
    accumulate: Annotated[int, Field(ge=1)]
    """Parts of a process's images that follow each other, to save memory; one step is made of all. No effect
    on results beyond the same."""
    checkpoint_seconds: NotNegative
    """A checkpoint at the end of an epoch if the last one is at least this old. No effect on results."""
    targets_gb: NotNegative
    """GB that runs/targets may take, where training on a CPU keeps the source's [CLS] rows for cells that
    see the same views, such as a sweep of GTA's weight; 0: nothing is kept. No effect on results."""
    gta: Gta
    at: At
    l2sp: L2sp
    delta: Delta
    bss: Bss
    lwf: Lwf
    bituning: Bituning
    mixup: Mixing
    cutmix: Mixing
    transmix: Mixing
    lora: Lora

    @model_validator(mode="after")
    def _consistent(self) -> Finetune:
        for key in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, key)
            if not 0 < low <= high:
                raise ValueError(f"{key}: expected 0 < smallest <= largest, got [{low}, {high}]")
        if self.batch_size < self.processes * self.accumulate:
            raise ValueError(
                f"batch_size: expected at least an image for each of {self.processes} processes times "
                f"{self.accumulate} parts, got {self.batch_size}"
            )
        return self
