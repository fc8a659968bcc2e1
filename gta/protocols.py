"""One number out of many heads: protocols by which a ViT's attention is scored as a segmentation.

Every score is the Jaccard index with an object; it is averaged over the objects of an image, then over
images, as the author of DINO (Caron et al., 2021, arXiv 2104.14294) says in the issue 54 of its repository.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

NO_OBJECT, ALL_VOID = 0, 255
"""In the column `object`: the image has none in its view, or nothing in it is known."""
PROTOCOLS = ("best_head", "chosen_head", "mean_heads")
"""best_head: of each object the head that is best on it, DINO's protocol, an oracle; chosen_head: the one
head that is best on the other half of the images; mean_heads: the heads' maps averaged into one."""


def summarise(rows: pd.DataFrame) -> dict[str, Any]:
    """Rows of one model (see `gta.segments.segment`) -> counts and the PROTOCOLS' scores, in [0, 1].

    images: seen; empty_images: without an object in view; void_images: without a known pixel; both have no
    score. objects: scored. A score is NaN where there is nothing to score or, for chosen_head, to choose by.
    """
    scored = rows[~rows["object"].isin([NO_OBJECT, ALL_VOID])]
    heads = [str(name) for name in rows if str(name).startswith("jaccard_head")]
    columns = {"best": scored[heads].max(axis=1), "half": scored["half"]}
    by_image = scored[["image", "jaccard", *heads]].assign(**columns).groupby("image", sort=False).mean()
    return {
        "images": rows["image"].nunique(),
        "empty_images": int((rows["object"] == NO_OBJECT).sum()),
        "void_images": int((rows["object"] == ALL_VOID).sum()),
        "objects": len(scored),
        "best_head": by_image["best"].mean(),
        "chosen_head": _crossed(by_image[heads], by_image["half"]),
        "mean_heads": by_image["jaccard"].mean(),
    }


def _crossed(heads: pd.DataFrame, half: pd.Series) -> float:
    """Mean score of the images, each half's by the head that is best on the other half."""
    if half.nunique() < 2:
        return float("nan")
    parts = [heads.loc[half == own, str(heads[half != own].mean().idxmax())] for own in (0, 1)]
    return float(pd.concat(parts).mean())
