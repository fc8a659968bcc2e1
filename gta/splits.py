"""Splits a data set's official training images into nested fractions and a validation part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from gta.errors import InputError


def split_train(
    train: pd.DataFrame, fractions: Sequence[int], val: int, seed: int
) -> tuple[dict[int, pd.DataFrame], pd.DataFrame]:
    """The training list of each fraction, and the validation list.

    train: rows of an index; fractions: per cent; val: per cent of each class, taken first. Of the n_c
    images of a class that are left, a fraction has ceil(n_c * fraction): the first ones of one seeded
    order, so that smaller fractions lie within larger ones, whichever fractions are asked for. The rule
    and the counts that it gives with val = 0 are those of TLlib's published lists; the images are ours.

    Raises InputError where a class would be left without a training image.
    """
    left: list[pd.DataFrame] = []
    kept: list[pd.DataFrame] = []
    for label, rows in train.sort_values("image").groupby("label"):
        order = np.random.default_rng([seed, int(str(label))]).permutation(len(rows))
        count = share(len(rows), val)
        if count >= len(rows):
            raise InputError(
                f"params.yaml: split.val: {val} % of class {rows['class'].iloc[0]!r} is all of its "
                f"{len(rows)} training images; expected at least one to be left"
            )
        kept.append(rows.iloc[order[:count]])
        left.append(rows.iloc[order[count:]])
    lists = {
        fraction: pd.concat([rows.iloc[: share(len(rows), fraction)] for rows in left])
        for fraction in fractions
    }
    return lists, pd.concat(kept)


def share(count: int, per_cent: int) -> int:
    """ceil(count * per_cent / 100), in whole numbers: 7 % of 100 is 7, which floats would make 8."""
    return -(-count * per_cent // 100)
