"""Attention pictures: what is kept of which images, and how it is shown."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from study import SETTINGS
from test_figures import texts
from tiny import CARD, training

from gta.attention import record_logits
from gta.choice import Cell
from gta.localisation import maps
from gta.pictures import draw_pictures
from stages.evaluate import pictured


def test_the_pictured_images_are_of_as_many_classes_as_there_can_be() -> None:
    test = pd.DataFrame({"image": [f"{n}.png" for n in range(12)], "label": [0] * 8 + [1, 1, 2, 2]})
    chosen = pictured(test, 3)
    assert sorted(chosen["label"]) == [0, 1, 2]
    assert chosen.index.is_monotonic_increasing
    assert pictured(test, 3).equals(chosen)
    assert len(pictured(test, 5)) == 5
    assert pictured(test, 0).empty


def test_maps_are_the_largest_over_heads_brought_to_sum_one(tmp_path: Path) -> None:
    run = training(tmp_path)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    found = maps({"0": run.model.eval(), "source": run.source}, CARD, images, run.device, "fp32", -1)
    assert set(found) == {"0", "source"}
    with record_logits(run.source, [11]) as recorder, torch.no_grad():
        run.source((images.float() / 255 - 0.5) / 0.5)
    largest = recorder.rows[11].softmax(-1)[..., 1:].amax(1)
    expected = (largest / largest.sum(1, keepdim=True)).view(2, 2, 2).numpy()
    np.testing.assert_allclose(found["source"], expected, rtol=2e-3)


def test_a_row_an_image_and_a_column_a_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = [Cell("baseline", "pets", 15, "baseline"), Cell("GTA", "pets", 15, "gta-1")]
    for cell in cells:
        place = cell.folder(tmp_path)
        place.mkdir(parents=True)
        views = {"image": rng.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)}
        views |= {"box": np.full((2, 8, 8), 255, np.uint8), "mask": np.zeros((2, 8, 8), np.uint8)}
        views["mask"][0, 2:5, 2:5] = 1
        np.savez_compressed(place / "views.npz", **views)
        attention = {name: rng.random((2, 4, 4)).astype(np.float16) for name in ("source", "0", "1")}
        np.savez_compressed(place / "maps.npz", **attention)
    drawn = draw_pictures(tmp_path, cells, 1, SETTINGS)
    assert texts(drawn["svg"]) == ["image", "frozen source", "baseline, 15 %", "GTA, 15 %"]
    width, height = Image.open(io.BytesIO(drawn["png"])).size
    assert width == int(SETTINGS.dpi * SETTINGS.width)
    assert height < width
    assert draw_pictures(tmp_path, cells, 1, SETTINGS) == drawn
    assert draw_pictures(tmp_path, cells, 0, SETTINGS) != drawn


def test_nothing_is_drawn_where_no_images_were_kept(tmp_path: Path) -> None:
    assert draw_pictures(tmp_path, [Cell("baseline", "pets", 15, "baseline")], 0, SETTINGS) == {}
    assert draw_pictures(tmp_path, [], 0, SETTINGS) == {}
