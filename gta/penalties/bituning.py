"""Bi-Tuning: two contrastive losses beside the cross-entropy.

Zhong, Wang, Kou, Wang, Long (2020), "Bi-tuning of Pre-trained Representations", arXiv 2011.06182; as in
TLlib.

A slowly following copy of the model (momentum m) sees a second view of each image; its features h and
projections z are kept in queues of `queue` keys a class. With similarities s over temperature, of one image
to its own key and to all keys,

    L = KL(u || softmax(s_z)) + KL(u || softmax(s_y)),    u: even over its own key and those of its class

s_z compares projections; s_y compares the features, as [h; 1] of length 1, with the image's row of the
head, [w; b] of length 1, which gets no gradient from it. The losses are means over images, each against the
queues as they were before the step; once a step the copy follows, and all keys of the batch enter the queues
in its order, whatever shards it was seen in. Under mixing an image has no one class: such methods are
refused.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gta.penalties.base import Batch, Inputs, Penalty, Setting, head_of
from gta.shards import Shard, whole


def contrast(
    own: Float[Tensor, " batch"],
    queued: Float[Tensor, "batch classes keys"],
    labels: Int[Tensor, " batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """KL(u || softmax) of the similarities to the own key and to the queued ones, averaged over the batch."""
    keys = queued.shape[2]
    logits = torch.cat([own[:, None], queued.flatten(1)], dim=1) / temperature
    logs = logits.log_softmax(1)
    positive = logs[:, 1:].view_as(queued)[torch.arange(len(labels)), labels].sum(1) + logs[:, 0]
    return (-math.log(keys + 1) - positive / (keys + 1)).mean()


class BiTuning(Penalty):
    """Contrast of projections and of features."""

    needs_keys = True
    replayable = False

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.options = setting.settings.bituning
        width = head_of(setting.model).in_features
        self.projector = nn.Linear(width, self.options.width).to(head_of(setting.model).weight.device)
        self.key_model = copy.deepcopy(setting.model).requires_grad_(False).eval()
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        size = (setting.num_classes, self.options.queue)
        device = self.projector.weight.device
        for name, length in (("queue_h", width + 1), ("queue_z", self.options.width)):
            self.register_buffer(name, F.normalize(torch.randn(*size, length), dim=2).to(device))
        self.register_buffer("next_key", torch.zeros(setting.num_classes, dtype=torch.long))
        self._model, self._autocast = (setting.model,), setting.autocast
        self._features = Inputs(head_of(setting.model))
        self._new: list[tuple[Tensor, ...]] = []

    def attached(self) -> Inputs:
        return self._features

    def forward(self, batch: Batch) -> Tensor:
        assert batch.keys is not None  # needs_keys
        head = head_of(self._model[0])
        h, z = self._represent(self._features.value.float(), self.projector)
        with torch.no_grad():
            if batch.shard.first:
                self._follow()
            with Inputs(head_of(self.key_model)) as features, self._autocast():
                self.key_model(batch.keys)
            key_h, key_z = self._represent(features.value.float(), self.key_projector)
            rows = F.normalize(torch.cat([head.weight, head.bias[:, None]], dim=1), dim=1)[batch.labels]
        assert isinstance(self.queue_h, Tensor)
        assert isinstance(self.queue_z, Tensor)
        of_z = contrast(
            (z * key_z).sum(1),
            torch.einsum("bd,ckd->bck", z, self.queue_z.clone()),
            batch.labels,
            self.options.temperature,
        )
        of_y = contrast(
            (h * rows).sum(1),
            torch.einsum("bd,ckd->bck", rows, self.queue_h.clone()),
            batch.labels,
            self.options.temperature,
        )
        self._keep(batch.shard, key_h, key_z, batch.labels)
        return of_z + of_y

    def _represent(self, features: Tensor, projector: nn.Module) -> tuple[Tensor, Tensor]:
        h = F.normalize(F.pad(features, (0, 1), value=1.0), dim=1)
        return h, F.normalize(projector(features), dim=1)

    def _follow(self) -> None:
        pairs = ((self.key_model, self._model[0]), (self.key_projector, self.projector))
        for follower, leader in pairs:
            for slow, fast in zip(follower.parameters(), leader.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.options.momentum)

    def _keep(self, shard: Shard, *values: Tensor) -> None:
        """Keeps a shard's keys and labels until the step's last one, and then enqueues the batch's."""
        self._new.append(tuple(value if shard.share else value[:0] for value in values))
        if shard.last:
            own = [torch.cat(parts) for parts in zip(*self._new, strict=True)]
            self._enqueue(*(whole(value, shard.rows.stop - len(value), shard.total) for value in own))
            self._new.clear()

    @torch.no_grad()
    def _enqueue(self, h: Tensor, z: Tensor, labels: Tensor) -> None:
        assert isinstance(self.next_key, Tensor)
        assert isinstance(self.queue_h, Tensor)
        assert isinstance(self.queue_z, Tensor)
        for row, label in enumerate(labels.tolist()):
            place = int(self.next_key[label])
            self.queue_h[label, place] = h[row]
            self.queue_z[label, place] = z[row]
            self.next_key[label] = (place + 1) % self.options.queue
