"""One pass of a model over a list of images: what it predicts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import pandas as pd
import torch
from torch import nn

from gta.metrics import per_image
from gta.models import Card, normalise
from gta.precision import autocast


@torch.no_grad()
def predict(
    model: nn.Module,
    card: Card,
    batches: Iterable[dict[str, Any]],
    device: torch.device,
    precision: Literal["fp32", "bf16", "auto"],
) -> pd.DataFrame:
    """A row an image, in the batches' order, with the columns of `metrics.per_image`."""
    parts = []
    for batch in batches:
        with autocast(precision, device):
            logits = model(normalise(batch["image"].to(device), card))
        parts.append(pd.DataFrame(per_image(logits, batch["label"].to(device))))
    return pd.concat(parts, ignore_index=True)
