"""Fractions and validation: exact counts, nesting, and what must never be drawn."""

from __future__ import annotations

import pandas as pd
import pytest

from gta.errors import InputError
from gta.splits import share, split_train

COUNTS = {0: 30, 1: 29, 2: 17, 3: 4}


def index() -> pd.DataFrame:
    rows = [
        {"image": f"images/{label}/{number:03d}.jpg", "label": label, "class": f"c{label}"}
        for label, count in COUNTS.items()
        for number in range(count)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("count", "per_cent", "expected"), [(100, 7, 7), (30, 15, 5), (20, 15, 3), (1, 1, 1), (9, 100, 9)]
)
def test_share_rounds_up_in_whole_numbers(count: int, per_cent: int, expected: int) -> None:
    assert share(count, per_cent) == expected


@pytest.mark.parametrize("val", [0, 20])
def test_counts_nesting_and_no_overlap(val: int) -> None:
    lists, kept = split_train(index(), [100, 15, 50], val, seed=3)
    for label, count in COUNTS.items():
        left = count - share(count, val)
        assert (kept["label"] == label).sum() == share(count, val)
        for fraction, rows in lists.items():
            assert (rows["label"] == label).sum() == share(left, fraction)
    images = {fraction: set(rows["image"]) for fraction, rows in lists.items()}
    assert images[15] < images[50] < images[100]
    assert images[100].isdisjoint(kept["image"])
    assert images[100] | set(kept["image"]) == set(index()["image"])


def test_the_literatures_counts() -> None:
    """CUB has 29 or 30 training images a class; the published lists have 5, 9, 15 and 30 of them."""
    cub = pd.concat([index().query("label == 0").assign(label=label) for label in range(200)])
    cub = cub[~((cub["label"] < 6) & cub["image"].str.endswith("029.jpg"))]
    assert len(cub) == 5994
    lists, _ = split_train(cub, [15, 30, 50, 100], val=0, seed=0)
    assert [len(lists[fraction]) for fraction in (15, 30, 50, 100)] == [1000, 1800, 3000, 5994]


def test_other_fractions_and_the_order_of_rows_change_nothing() -> None:
    alone, kept = split_train(index(), [30], 20, seed=3)
    among, kept_too = split_train(index().sample(frac=1, random_state=0), [15, 30, 100], 20, seed=3)
    assert set(alone[30]["image"]) == set(among[30]["image"])
    assert set(kept["image"]) == set(kept_too["image"])


def test_the_seed_counts() -> None:
    lists = [split_train(index(), [15], 0, seed)[0][15] for seed in (0, 0, 1)]
    assert list(lists[0]["image"]) == list(lists[1]["image"]) != list(lists[2]["image"])


def test_a_class_without_training_images_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"params\.yaml: split\.val: 80 % of class 'c3' is all of its 4 training"
    ):
        split_train(index(), [15], 80, seed=0)
