"""Every head of every block: how spread its [CLS] attention is, how far from the source's, how much is on the
object."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gta.metrics import in_patches
from gta.params.evaluate import PER_HEAD


def per_head(
    logits: Float[Tensor, "layers batch heads tokens"],
    source: Float[Tensor, "layers batch heads tokens"],
    grid: tuple[int, int],
    regions: dict[str, UInt8[Tensor, "batch height width"]],
) -> dict[str, Float[Tensor, "layers batch heads"]]:
    """[CLS] rows of a model and of the source on the same images -> the measures PER_HEAD of each image.

    The patches are the last rows x columns tokens, `grid`. `entropy`: of the attention over the patches,
    brought to sum 1, in nats: 0 where one patch has all, log(rows * columns) where it is even. `distance`:
    GTA's, the mean over all tokens of the squared difference of the logits. `kl`: KL(source || model) of
    the attention over all tokens, in nats. `mass_<region>`: the share of the attention to patches that lies
    on the object, as in `metrics.on_object`; NaN where there is no object.
    """
    rows, columns = grid
    spread = logits[..., -rows * columns :].log_softmax(-1)
    attention = spread.exp()
    before, after = source.log_softmax(-1), logits.log_softmax(-1)
    values = {
        "entropy": -(attention * spread).sum(-1),
        "distance": (logits - source).square().mean(-1),
        "kl": (before.exp() * (before - after)).sum(-1),
    }
    for region, objects in regions.items():
        seen, known = (shares.flatten(1) for shares in in_patches(objects, grid))
        mass = torch.einsum("lbhn,bn->lbh", attention, seen) / torch.einsum("lbhn,bn->lbh", attention, known)
        values[f"mass_{region}"] = mass.where(seen.sum(1)[None, :, None] > 0, float("nan"))
    return values


def head_table(batches: list[dict[str, Tensor]]) -> pd.DataFrame:
    """Values of `per_head` (layers, batch, heads), batch by batch -> a row a layer and head, numbers from 0:
    means over the images, for `mass_<region>` over those that have the region."""
    means = {
        name: torch.cat([values[name] for values in batches], dim=1).double().nanmean(1) for name in PER_HEAD
    }
    layers, heads = means[PER_HEAD[0]].shape
    places = pd.MultiIndex.from_product([range(layers), range(heads)], names=["layer", "head"])
    columns = {name: mean.flatten().cpu().numpy() for name, mean in means.items()}
    return pd.DataFrame(columns, index=places).reset_index()
