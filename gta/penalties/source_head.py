"""Co-Tuning and LwF: penalties that keep a copy of the source's classifier, trained along, on the model's
features.

You, Kou, Long, Wang (NeurIPS 2020), "Co-Tuning for Transfer Learning":

    L = mean over images of - sum_s p(s | y) log softmax(h(f))_s

with p(s | y) the mean of the source's predictions over the training images of class y, seen in evaluation
(its direct estimate; the paper also calibrates it). Of mixed images y has two values, whose p are mixed
alike (ours).

Li, Hoiem (2016), "Learning without Forgetting", arXiv 1606.09282:

    L = KL(softmax(source / T) || softmax(h(f) / T)), averaged over images

as in TLlib, whose weight the usual one is, the source seeing the same augmented image (the paper records
its outputs once). h: the copied classifier, f: what the model's own head reads.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gta.errors import InputError
from gta.penalties.base import Batch, Inputs, Penalty, Setting, head_of, seen_by


def soft_cross_entropy(
    logits: Float[Tensor, "batch classes"], target: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """Cross-entropy to probabilities, in nats, averaged over the batch."""
    return F.cross_entropy(logits, target)


def distillation(
    logits: Float[Tensor, "batch classes"], source: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, ""]:
    """The divergence of the softened predictions, in nats."""
    ours, theirs = ((values / temperature).log_softmax(1) for values in (logits, source.detach()))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def relationship(
    source_logits: Float[Tensor, "images source_classes"], labels: Int[Tensor, " images"], num_classes: int
) -> Float[Tensor, "classes source_classes"]:
    """Row y: the source's predictions, averaged over the images of class y."""
    members = F.one_hot(labels, num_classes).T.float()
    return members @ source_logits.softmax(1) / members.sum(1, keepdim=True).clamp_min(1)


class _SourceHead(Penalty):
    def __init__(self, setting: Setting) -> None:
        super().__init__()
        if not isinstance(head_of(setting.source), nn.Linear):
            raise InputError(
                "grid.methods: cotuning and lwf need a source with a classifier, as supervised ones have; "
                "this one has none"
            )
        self.head = copy.deepcopy(head_of(setting.source)).requires_grad_(True)
        self._features = Inputs(head_of(setting.model))

    def attached(self) -> ExitStack:
        contexts = ExitStack()
        contexts.enter_context(self._features)
        return contexts

    def source_logits(self) -> Tensor:
        """What the copied classifier says of the model's features."""
        logits: Tensor = self.head(self._features.value.float())
        return logits


class CoTuning(_SourceHead):
    """The source's classes as soft labels."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        logits, labels = seen_by(setting.source, setting.centre_views())
        self.register_buffer("relationship", relationship(logits, labels, setting.num_classes))

    def forward(self, batch: Batch) -> Tensor:
        assert isinstance(self.relationship, Tensor)
        return soft_cross_entropy(self.source_logits(), batch.targets @ self.relationship)


class LearningWithoutForgetting(_SourceHead):
    """Distillation of the source's own predictions."""

    needs_source = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.temperature = setting.settings.lwf.temperature
        self._of_source = Inputs(head_of(setting.source))
        self._source_head = (head_of(setting.source),)

    def attached(self) -> ExitStack:
        contexts = super().attached()
        contexts.enter_context(self._of_source)
        return contexts

    def forward(self, _: Batch) -> Tensor:
        with torch.no_grad():
            targets = self._source_head[0](self._of_source.value.float())
        return distillation(self.source_logits(), targets, self.temperature)
