"""BSS, batch spectral shrinkage: the smallest singular values of a batch's features are shrunk.

Chen, Wang, Fu, Long, Wang (NeurIPS 2019), "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral
Shrinkage for Safe Transfer Learning".

    L = sum of the squares of the `count` smallest singular values of F (B, D)

F holds what the head reads, a row an image. Singular values belong to a batch, and the smallest ones of fewer
images are larger: of an epoch's last batch, where it is smaller than the others, nothing is shrunk (TLlib
drops that batch). They are those of the whole batch where processes share it, each of which computes them of
all features; accumulation, which never has all of them at once, is refused.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gta.errors import InputError
from gta.penalties.base import Batch, Inputs, Penalty, Setting, head_of
from gta.shards import whole_with_gradient


def spectral_shrinkage(features: Float[Tensor, "batch width"], count: int) -> Float[Tensor, ""]:
    """The sum of squares of the `count` smallest singular values, or of all where there are fewer."""
    values: Tensor = torch.linalg.svdvals(features.float())
    return values[-count:].square().sum()


class SpectralShrinkage(Penalty):
    """What is smallest of a batch's features."""

    replayable = False

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        if setting.settings.accumulate > 1:
            raise InputError(
                "params.yaml: finetune.accumulate: expected 1 with bss, which needs a whole batch at once, "
                f"got {setting.settings.accumulate}"
            )
        self.count, self.batch_size = setting.settings.bss.count, setting.settings.batch_size
        self._features = Inputs(head_of(setting.model))

    def attached(self) -> Inputs:
        return self._features

    def forward(self, batch: Batch) -> Tensor:
        features = self._features.value
        if batch.shard.total < self.batch_size:
            return features.new_zeros((), dtype=torch.float32)
        return spectral_shrinkage(whole_with_gradient(features.float(), batch.shard), self.count)
