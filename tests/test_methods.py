"""Every method trains, resumes to the same bits, and does what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import training

from gta.errors import InputError
from gta.methods import MIXINGS, PENALTIES, SCOPES, parse_method
from gta.models import create
from gta.scope import merge
from gta.train import Run, train

METHODS = [
    *(f"{kind}-{about.usual:g}" for kind, about in PENALTIES.items()),
    *MIXINGS,
    *SCOPES,
    "gta-0.1+transmix",
    "gta-0.1+l2sp-0.01+mixup",
    "gta-0.1+lora",
    "cotuning-2.3+cutmix+lastblock",
]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls_and_every_term_is_in_the_history(tmp_path: Path, method: str) -> None:
    run = training(tmp_path, method, classes=5, epochs=14, drop_path=0.0, label_smoothing=0.0, lr=2e-3)
    history = train(run, tmp_path / "c.pt").history
    # the head starts at zero, and so do penalties that compare with the source: the cross-entropy has to fall
    assert history["cross_entropy"].iloc[-3:].mean() < history["cross_entropy"].iloc[0]
    kinds = list(parse_method(method).weights)
    assert sorted(set(history.columns) & set(PENALTIES)) == sorted(kinds)
    total = history["cross_entropy"] + sum(
        weight * history[kind] for kind, weight in parse_method(method).weights.items()
    )
    torch.testing.assert_close(torch.tensor(history["loss"]), torch.tensor(total), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["bituning-1", "delta-0.5", "lwf-4+transmix", "gta-0.1+lora"])
def test_a_killed_run_goes_on_to_the_same_bits(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of penalties and of added layers is in the checkpoint too."""
    whole = training(tmp_path, method, classes=5)
    train(whole, tmp_path / "whole.pt")
    run = training(tmp_path, method, classes=5)
    epochs = iter([run.model.train, run.model.train])
    monkeypatch.setattr(run.model, "train", lambda mode=True: next(epochs)(mode))
    with pytest.raises(StopIteration):
        train(run, tmp_path / "killed.pt")
    resumed = training(tmp_path, method, classes=5)
    train(resumed, tmp_path / "killed.pt")
    expected, got = weights(whole), weights(resumed)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize("kind", PENALTIES)
def test_weight_zero_is_plain_fine_tuning_to_the_bit(tmp_path: Path, kind: str) -> None:
    found = []
    for method in ("baseline", f"{kind}-0"):
        run = training(tmp_path, method, classes=5, epochs=1)
        train(run, tmp_path / f"{method}.pt")
        found.append(weights(run))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(
    ("scope", "moves"),
    [
        ("probe", {"head"}),
        ("lastblock", {"head", "norm", "blocks.11"}),
        ("lora", {"head", *(f"blocks.{block}" for block in range(12))}),
    ],
)
def test_what_is_trained(tmp_path: Path, scope: str, moves: set[str]) -> None:
    run = training(tmp_path, scope, epochs=2)
    before = {name: tensor.clone() for name, tensor in run.model.named_parameters()}
    train(run, tmp_path / "c.pt")
    if scope == "lora":
        merge(run.model)
        start, _ = create(run.card).state_dict(), None
        assert list(run.model.state_dict()) == list(start)  # a plain model again
        before = {name.replace(".base_layer", ""): tensor for name, tensor in before.items()}
    moved = {
        name for name, tensor in run.model.named_parameters() if not torch.equal(tensor, before[name].data)
    }
    groups = {".".join(name.split(".")[: 2 if name.startswith("blocks") else 1]) for name in moved}
    assert groups == moves
    if scope == "lora":
        assert {name.split(".", 2)[2] for name in moved if "blocks" in name} == {"attn.qkv.weight"}


def test_merging_lora_changes_no_output(tmp_path: Path) -> None:
    run = training(tmp_path, "lora", epochs=2)
    train(run, tmp_path / "c.pt")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = run.model.eval()(images)
        merge(run.model)
        torch.testing.assert_close(run.model.eval()(images), before, rtol=1e-5, atol=1e-5)


def test_lora_refuses_what_is_not_there_or_never_called(tmp_path: Path) -> None:
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "targets": ["query"], "lr_scale": 10.0}
    with pytest.raises(InputError, match=r"finetune\.lora\.targets: .*query") as caught:
        training(tmp_path, "lora", lora=lora)
    assert "\n" not in str(caught.value)
    from gta.models import create_timm
    from gta.scope import restrict

    model = create_timm("beit_base_patch16_224", 32, depth=1, num_classes=2)
    section = training(tmp_path).settings.lora
    with pytest.raises(InputError, match=r"Beit uses the weights of blocks\.0\.attn\.qkv without"):
        restrict(model, "lora", section, torch.zeros(1, 3, 32, 32))


def test_a_source_without_a_head_is_refused(tmp_path: Path) -> None:
    for method in ("cotuning-1", "lwf-1"):
        with pytest.raises(InputError, match="need a source with a classifier"):
            training(tmp_path, method)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("baseline", "baseline"),
        ("gta-0.1", "GTA"),
        ("transmix+gta-1", "GTA + TransMix"),
        ("l2sp-0.01+gta-1e-3", "GTA + L2-SP"),
        ("probe", "linear probe"),
        ("at-3+lora", "attention transfer + LoRA"),
    ],
)
def test_families(name: str, family: str) -> None:
    assert parse_method(name).family == family


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("l2sp", r"expected a weight such as 'l2sp-0\.01', got 'l2sp'"),
        ("transmix-1", r"got 'transmix-1'"),
        ("mixup+cutmix", r"got 'cutmix'"),
        ("probe+lora", r"got 'lora'"),
        ("dropout", r"penalty one of: gta, at, l2sp, .*; one of: mixup, .*; one of: probe, .*got 'dropout'"),
        ("probe+gta-1", "do not combine: a linear probe trains nothing that a penalty reads"),
        ("probe+transmix", "do not combine"),
        ("bituning-1+mixup", "do not combine: Bi-Tuning"),
        ("lora+l2sp-1", "do not combine: LoRA"),
    ],
)
def test_what_is_no_method_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_method(name)


@pytest.mark.parametrize(("decay", "expected"), [("none", 1.0), ("linear", 0.75), ("cosine", 0.853553)])
def test_the_weight_of_gta_decays(tmp_path: Path, decay: str, expected: float) -> None:
    from gta.losses import _weight

    gta = {**training(tmp_path).settings.gta.model_dump(), "decay": decay}
    run = training(tmp_path, "gta-2", gta=gta, epochs=4)
    assert _weight(run, "gta", run.steps // 4) == pytest.approx(2 * expected, rel=1e-5)
