"""Attention transfer: the source's whole attention maps as targets of the model's.

Li, Tian, Li, Hsu, Chen, Xie (2024), "On the Surprising Effectiveness of Attention Transfer for Vision
Transformers", arXiv 2411.09702.

    L = sum over layers of the mean over images, heads and rows of - sum_j softmax(A^src)_j log softmax(A)_j

In the original the student starts from scratch and shares the teacher's drop path masks; here, as for every
method of the grid, the model starts from the source's weights, and the source runs in evaluation mode
(ours).
"""

from __future__ import annotations

from contextlib import ExitStack

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gta.attention import record_logits
from gta.guidance import check_alike, numbers
from gta.penalties.base import Batch, Penalty, Setting


def map_cross_entropy(
    logits: Float[Tensor, "layers batch heads rows columns"],
    source: Float[Tensor, "layers batch heads rows columns"],
) -> Float[Tensor, ""]:
    """The sum over layers of the cross-entropy of the model's maps to the source's, in nats."""
    entropy = -(source.detach().softmax(-1) * F.log_softmax(logits, dim=-1)).sum(-1)
    return entropy.mean((1, 2, 3)).sum()


class AttentionTransfer(Penalty):
    """Cross-entropy between whole attention maps. Builds maps of tokens x tokens, unlike GTA."""

    needs_source = True

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        layout = check_alike(setting.source, setting.model)
        self.layers = numbers("layer", setting.settings.at.layers, len(layout.attentions))
        self._models = (setting.model, setting.source)

    def attached(self) -> ExitStack:
        contexts = ExitStack()
        self._logits, self.of_source = (
            contexts.enter_context(record_logits(model, self.layers, "all")) for model in self._models
        )
        return contexts

    def forward(self, _: Batch) -> Tensor:
        assert self.of_source is not None
        return map_cross_entropy(self._logits.stacked(), self.of_source.stacked())
