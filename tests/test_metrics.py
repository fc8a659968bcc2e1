"""Measures against hand-computed cases and loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from gta.metrics import accuracy_measures, attention_map, calibration_error, on_object, per_image


def test_accuracy_by_hand() -> None:
    logits = torch.tensor(
        [[3.0, 1, 0, 0, 0, -9], [0, 2, 1, 1, 1, 1], [5, 2, 0, 0, 0, 1], [0, 4, 0, 0, 0, -1]]
    )
    labels = torch.tensor([0, 1, 1, 5])
    images = pd.DataFrame(per_image(logits, labels))
    measured = accuracy_measures(images, bins=10)
    assert measured["top1"] == 0.5
    assert measured["mean_class"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert images["in_top5"].tolist() == [True, True, True, False]
    expected = -torch.log_softmax(logits.double(), 1)[range(4), labels].mean().item()
    assert measured["nll"] == pytest.approx(expected)


def test_calibration_by_hand_and_by_loop() -> None:
    assert calibration_error(np.array([0.95, 0.95, 0.15]), np.array([1.0, 0.0, 0.0]), 10) == pytest.approx(
        (2 * abs(0.5 - 0.95) + abs(0 - 0.15)) / 3
    )
    assert calibration_error(np.array([1.0]), np.array([1.0]), 15) == 0
    rng = np.random.default_rng(0)
    confidence, right = rng.random(500), (rng.random(500) < 0.6).astype(float)
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(confidence, right, 15) == pytest.approx(total, abs=2e-3)


@pytest.mark.parametrize("heads", ["mean", "max"])
def test_attention_map_sums_to_one_and_leaves_out_prefix_tokens(heads: str) -> None:
    row = torch.randn(2, 3, 5 + 2 * 7)
    got = attention_map(row, 5, heads, (2, 7))
    attention = row.softmax(-1)
    merged = attention.mean(1) if heads == "mean" else attention.max(1).values
    expected = merged[:, 5:] / merged[:, 5:].sum(1, keepdim=True)
    torch.testing.assert_close(got, expected.view(2, 2, 7))


def test_on_object_by_hand() -> None:
    attention = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    region = torch.zeros(1, 4, 4, dtype=torch.uint8)
    region[0, 2:, 2:] = 1  # exactly the lower right patch
    measured = on_object(attention, region)
    assert measured["mass"][0] == pytest.approx(0.4)
    assert measured["share"][0] == pytest.approx(0.25)
    assert measured["hit"][0] == 1
    region[0, :, :2] = 255  # the left half is void: on neither side
    measured = on_object(attention, region)
    assert measured["mass"][0] == pytest.approx(0.4 / 0.6)
    assert measured["share"][0] == pytest.approx(0.5)


def test_on_object_against_pixels() -> None:
    torch.manual_seed(0)
    attention = torch.rand(5, 3, 7)
    attention = attention / attention.sum((1, 2), keepdim=True)
    region = torch.randint(0, 3, (5, 12, 28)).to(torch.uint8)
    region[region == 2] = 255
    pixels = attention.repeat_interleave(4, 1).repeat_interleave(4, 2)
    measured = on_object(attention, region)
    for n in range(5):
        inside, known = region[n] == 1, region[n] != 255
        assert measured["mass"][n] == pytest.approx(
            (pixels[n][inside].sum() / pixels[n][known].sum()).item(), rel=1e-4
        )
        assert measured["share"][n] == pytest.approx((inside.sum() / known.sum()).item(), rel=1e-5)


def test_uniform_attention_has_the_share_as_mass() -> None:
    region = (torch.rand(4, 16, 16) > 0.7).to(torch.uint8)
    measured = on_object(torch.full((4, 4, 4), 1 / 16), region)
    np.testing.assert_allclose(measured["mass"], measured["share"], rtol=1e-5)


def test_no_object_in_view_counts_for_nothing() -> None:
    region = torch.stack([torch.zeros(4, 4), torch.full((4, 4), 255)]).to(torch.uint8)
    measured = on_object(torch.full((2, 2, 2), 0.25), region)
    assert all(np.isnan(values).all() for values in measured.values())
