"""L2-SP: the weights stay near the starting point.

Li, Grandvalet, Davoine (2018), "Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
arXiv 1802.01483.

    L = 1/2 ||w - w0||^2 + head/2 ||w_head||^2        w0: the source's weights;  head: `finetune.l2sp.head`

The paper weighs the head by a coefficient of its own, beta; here it is given relative to the penalty's
weight. As in the paper the penalty stands in for weight decay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gta.penalties.base import Batch, Penalty, Setting


class StartingPoint(Penalty):
    """Squared distance of the trained weights to the source's. Does not depend on the images."""

    replaces_decay = True

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        start = dict(setting.source.named_parameters())
        trained = [(name, w) for name, w in setting.model.named_parameters() if w.requires_grad]
        self._body = tuple((w, start[name].detach()) for name, w in trained if not name.startswith("head"))
        self._head = tuple(w for name, w in trained if name.startswith("head"))
        self.head_share = setting.settings.l2sp.head

    def forward(self, _: Batch) -> Tensor:
        body = [(w - w0).square().sum() for w, w0 in self._body]
        head = [w.square().sum() for w in self._head]
        return 0.5 * torch.stack(body).sum() + 0.5 * self.head_share * torch.stack(head).sum()
