"""Attention as a segmentation: by hand, and against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from gta.localisation import Seen, localised
from gta.params.evaluate import LOCALISATION
from gta.segmentation import box_iou, jaccard, kept
from stages.evaluate import best_heads, localisation


def test_kept_by_hand() -> None:
    attention = torch.tensor([[0.5, 0.25], [0.125, 0.125]])
    for share, expected in (
        (0.5, [[True, False], [False, False]]),
        (0.6, [[True, True], [False, False]]),
        (0.76, [[True, True], [False, True]]),  # of equals the later patch is the stronger
        (1.0, [[True, True], [True, True]]),
    ):
        assert kept(attention, share).tolist() == expected, share


def test_jaccard_by_hand() -> None:
    patches = torch.tensor([[[[True, False], [False, False]]]])  # upper left quarter
    region = torch.zeros(1, 4, 4, dtype=torch.uint8)
    region[0, :2] = 1  # upper half
    assert jaccard(patches, region).item() == 4 / 8
    region[0, :, 2:] = 255  # the right half is void: what is left of the object is the quarter
    assert jaccard(patches, region).item() == 1
    region[0, :2, :2] = 0
    assert math.isnan(jaccard(patches, region).item())  # no object
    assert math.isnan(jaccard(patches, torch.full_like(region, 255)).item())  # all void


@pytest.mark.parametrize("case", range(50))
def test_against_loops_over_pixels(case: int) -> None:
    rng = np.random.default_rng(case)
    heads, rows, columns = 3, int(rng.integers(2, 6)), int(rng.integers(2, 7))
    height, width = rows * int(rng.integers(1, 5)), columns * int(rng.integers(1, 5))
    attention = torch.tensor(rng.dirichlet(np.full(rows * columns, 0.5), heads)).float()
    region = rng.choice([0, 1, 255], (height, width), p=[0.5, 0.3, 0.2]).astype(np.uint8)
    share = float(rng.uniform(0.2, 0.95))
    maps = attention.view(1, heads, rows, columns)
    got = jaccard(kept(maps, share), torch.tensor(region)[None])[0]
    for head in range(heads):
        strongest = sorted(range(rows * columns), key=lambda n: -attention[head, n].item())
        chosen, mass = set(), 0.0
        while mass < share * attention[head].double().sum().item():
            chosen.add(strongest[len(chosen)])
            mass += attention[head, strongest[len(chosen) - 1]].item()
        both = either = 0
        for y in range(height):
            for x in range(width):
                if region[y, x] == 255:
                    continue
                found = (y * rows // height) * columns + x * columns // width in chosen
                both += found and region[y, x] == 1
                either += found or region[y, x] == 1
        if (region == 1).any():
            assert got[head].item() == pytest.approx(both / either, abs=1e-9)
        else:
            assert math.isnan(got[head].item())


def test_a_box_is_drawn_around_the_largest_group_of_patches() -> None:
    patches = torch.zeros(1, 3, 4, dtype=torch.bool)
    patches[0, 0, :2] = patches[0, 2, 3] = True  # two patches side by side, and one apart
    region = torch.zeros(1, 6, 8, dtype=torch.uint8)
    region[0, :2, :2] = 1  # half of the two
    assert box_iou(patches, region).item() == 0.5
    region[0, 5, 7] = 1  # the box around all of the object is now the whole image
    assert box_iou(patches, region).item() == pytest.approx(8 / 48)
    assert math.isnan(box_iou(patches, torch.zeros_like(region)).item())


def test_what_is_measured_of_an_image() -> None:
    torch.manual_seed(0)
    each = torch.rand(5, 3, 4, 4)
    region = (torch.rand(5, 16, 16) > 0.6).to(torch.uint8)
    region[4] = 255
    measured = localised(each.mean(1), each, region, 0.6)
    heads = np.stack([measured[f"jaccard_head{n}"] for n in range(3)])
    np.testing.assert_array_equal(measured["jaccard_best"], heads.max(0))
    np.testing.assert_allclose(
        measured["jaccard"][:4], jaccard(kept(each.mean(1)[:, None], 0.6), region)[:4, 0]
    )
    assert (measured["corloc"][:4] == (measured["iou"][:4] >= 0.5)).all()
    assert all(np.isnan(values[4]) for values in measured.values())


def test_the_head_is_chosen_on_other_images_and_counts_where_it_is_not_the_best() -> None:
    val = pd.DataFrame({"jaccard_head0_mask": [0.2, np.nan], "jaccard_head1_mask": [0.9, np.nan]})
    val = val.assign(jaccard_head0_box=np.nan, jaccard_head1_box=np.nan)
    heads = best_heads({"0": Seen(val, pd.DataFrame())})
    assert heads == {("0", "mask"): 1}
    test = {f"{name}_{region}": [0.5] for name in (*LOCALISATION, "share") for region in ("mask", "box")}
    test |= {"jaccard_head0_mask": [0.8], "jaccard_head1_mask": [0.3]}
    measured = localisation(pd.DataFrame(test), {"mask": 1, "box": None}, "_source")
    assert measured["jaccard_chosen_mask_source"] == 0.3
    assert math.isnan(measured["jaccard_chosen_box_source"])
    assert measured["images_mask"] == 1
