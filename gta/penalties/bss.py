"""BSS, batch spectral shrinkage: the smallest singular values of a batch's features are shrunk.

Chen, Wang, Fu, Long, Wang (NeurIPS 2019), "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral
Shrinkage for Safe Transfer Learning".

    L = sum of the squares of the `count` smallest singular values of F (B, D)

F holds what the head reads, a row an image. Singular values belong to a batch, and the smallest ones of fewer
images are larger: of an epoch's last batch, where it is smaller than the others, nothing is shrunk (TLlib
drops that batch).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gta.penalties.base import Batch, Inputs, Penalty, Setting, head_of


def spectral_shrinkage(features: Float[Tensor, "batch width"], count: int) -> Float[Tensor, ""]:
    """The sum of squares of the `count` smallest singular values, or of all where there are fewer."""
    values: Tensor = torch.linalg.svdvals(features.float())
    return values[-count:].square().sum()


class SpectralShrinkage(Penalty):
    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.count, self.batch_size = setting.settings.bss.count, setting.settings.batch_size
        self._features = Inputs(head_of(setting.model))

    def attached(self) -> Inputs:
        return self._features

    def forward(self, _: Batch) -> Tensor:
        features = self._features.value
        if len(features) < self.batch_size:
            return features.new_zeros((), dtype=torch.float32)
        return spectral_shrinkage(features, self.count)
