"""Heads of the blocks: by hand, against loops from the definitions, and in the one pass of `look`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CARD, images, packed, training

from gta.attention import record_logits
from gta.batches import CentreImages, centre_loader
from gta.guidance import attention_penalty
from gta.heads import head_table, per_head
from gta.localisation import look
from gta.metrics import on_object
from gta.params.evaluate import PER_HEAD

GRID, PREFIX = (2, 7), 3


def rows(seed: int) -> torch.Tensor:
    """Of 2 layers, 5 images, 3 heads."""
    return torch.randn(2, 5, 3, PREFIX + 14, generator=torch.Generator().manual_seed(seed))


def regions() -> dict[str, torch.Tensor]:
    """A mask that is empty in one image and void in part; no box."""
    mask = torch.randint(0, 3, (5, 8, 14), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    mask[mask == 2] = 255
    mask[3] = 0
    return {"mask": mask, "box": torch.full((5, 8, 14), 255, dtype=torch.uint8)}


def test_by_hand() -> None:
    logits = torch.zeros(1, 1, 1, 1 + 4)
    logits[..., 1] = math.log(
        5
    )  # attention 5/9 and four times 1/9, [CLS] first; over the patches 5/8, 1/8 ...
    mask = torch.zeros(1, 2, 2, dtype=torch.uint8)
    mask[0, 0, 0] = 1
    found = per_head(logits, torch.zeros_like(logits), (2, 2), {"mask": mask})
    assert found["entropy"].item() == pytest.approx(-5 / 8 * math.log(5 / 8) - 3 / 8 * math.log(1 / 8))
    assert found["distance"].item() == pytest.approx(math.log(5) ** 2 / 5)
    assert found["kl"].item() == pytest.approx(math.log(9 / 5) - math.log(5) / 5, abs=1e-6)
    assert found["mass_mask"].item() == pytest.approx(5 / 8)


def test_against_loops() -> None:
    model, source = rows(0), rows(1)
    found = per_head(model, source, GRID, regions())
    for layer in range(2):
        for image in range(5):
            for head in range(3):
                place = (layer, image, head)
                a, b = model[place].double(), source[place].double()
                p = [math.exp(x) for x in a[PREFIX:].tolist()]
                p = [x / sum(p) for x in p]
                assert found["entropy"][place].item() == pytest.approx(
                    -sum(x * math.log(x) for x in p), rel=1e-5
                )
                squares = [(x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)]
                assert found["distance"][place].item() == pytest.approx(sum(squares) / 17, rel=1e-5)
                q = [math.exp(x) / sum(math.exp(y) for y in b.tolist()) for x in b.tolist()]
                r = [math.exp(x) / sum(math.exp(y) for y in a.tolist()) for x in a.tolist()]
                kl = sum(x * math.log(x / y) for x, y in zip(q, r, strict=True))
                assert found["kl"][place].item() == pytest.approx(kl, rel=1e-4)
        for head in range(3):
            attention = model[layer, :, head, PREFIX:].softmax(-1).view(5, *GRID)
            expected = on_object(attention, regions()["mask"])["mass"]
            np.testing.assert_allclose(found["mass_mask"][layer, :, head], expected, rtol=1e-5)
    assert found["mass_mask"].isnan().any(2).any(0).tolist() == [False, False, False, True, False]
    assert found["mass_box"].isnan().all()


def test_the_distances_are_those_of_the_penalty() -> None:
    model, source = rows(0), rows(1)
    found = per_head(model, source, GRID, regions())
    assert found["distance"].mean().item() == pytest.approx(attention_penalty(model, source).item(), rel=1e-5)
    kl = attention_penalty(model, source, distance="kl").item()
    assert found["kl"].mean().item() == pytest.approx(kl, rel=1e-4)
    shifted = per_head(model + 3, source, GRID, regions())
    torch.testing.assert_close(shifted["kl"], found["kl"])
    assert (per_head(source, source, GRID, regions())["distance"] == 0).all()


def test_means_are_over_all_images_and_of_mass_over_those_with_an_object() -> None:
    model, source = rows(0), rows(1)
    whole = per_head(model, source, GRID, regions())
    parts = []
    for part in (slice(0, 2), slice(2, 5)):
        objects = {name: region[part] for name, region in regions().items()}
        parts.append(per_head(model[:, part], source[:, part], GRID, objects))
    table = head_table(parts)
    assert table.columns.tolist() == ["layer", "head", *PER_HEAD]
    assert table[["layer", "head"]].to_numpy().tolist() == [[x, y] for x in range(2) for y in range(3)]
    row = table.query("layer == 1 and head == 2").iloc[0]
    assert row["entropy"] == pytest.approx(whole["entropy"][1, :, 2].mean().item(), rel=1e-5)
    assert row["mass_mask"] == pytest.approx(whole["mass_mask"][1, [0, 1, 2, 4], 2].mean().item(), rel=1e-5)
    assert math.isnan(row["mass_box"])


def test_one_pass_sees_every_layer_of_every_model(tmp_path: Path) -> None:
    run = training(tmp_path)
    with torch.no_grad():
        run.model.blocks[4].attn.qkv.weight *= 1.5
    calls = {"source": 0, "0": 0}
    for name, model in (("source", run.source), ("0", run.model.eval())):
        model.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    rows = images(tmp_path)
    loader = centre_loader(CentreImages(packed(tmp_path, rows), rows, 32, 1.0, tmp_path), 4, 0)
    seen = look({"source": run.source, "0": run.model}, CARD, loader, run.device, "fp32", -1, "mean", 0.6)
    assert calls == {"source": 3, "0": 3}  # batches
    assert (seen["source"].heads["distance"] == 0).all()
    distance = seen["0"].heads.groupby("layer")["distance"].mean()
    assert (distance[:4] < 1e-9).all()
    assert (distance[4:] > 1e-9).all()
    every = torch.cat([(batch["image"].float() / 255 - 0.5) / 0.5 for batch in loader])
    with record_logits(run.model, [4]) as recorder, torch.no_grad():
        run.model(every)
    spread = recorder.rows[4][..., 1:].softmax(-1)
    expected = -(spread * spread.log()).sum(-1).mean(0)
    got = seen["0"].heads.query("layer == 4")["entropy"]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    last = seen["0"].heads.query("layer == 11")["mass_box"].mean()
    assert last == pytest.approx(seen["0"].images["mass_box"].mean(), rel=0.05)  # of the heads' mean
