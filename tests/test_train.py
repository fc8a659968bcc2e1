"""The loop: exact repetition, exact resumption, weight 0, schedules, groups, and how it stops."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

import pytest
import torch
from tiny import CARD, images, packed, settings, training
from torch import nn

from gta.batches import CentreImages, centre_loader
from gta.errors import InputError
from gta.guidance import Guide
from gta.measure import predict
from gta.optim import build_optimizer, lr_at, parameter_groups
from gta.train import Run, train


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def trained(folder: Path, method: str = "baseline", **changes: object) -> dict[str, torch.Tensor]:
    run = training(folder, method, **changes)
    train(run, folder / f"{method}-{len(list(folder.iterdir()))}.pt")
    return weights(run)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    once, twice = trained(tmp_path, "gta-0.1"), trained(tmp_path, "gta-0.1")
    assert same(once, twice)
    assert not same(once, trained(tmp_path, "gta-0.1", seed=1))


def test_weight_zero_is_plain_fine_tuning_to_the_bit(tmp_path: Path) -> None:
    plain = trained(tmp_path)
    assert same(plain, trained(tmp_path, "gta-0"))
    assert not same(plain, trained(tmp_path, "gta-0.5"))


def test_a_guide_of_weight_zero_draws_no_random_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with the penalty computed and added 0 times, the bits are those of plain fine-tuning."""
    plain = trained(tmp_path)
    run = training(tmp_path, "gta-1")
    monkeypatch.setattr(Guide, "penalty", lambda _, ask=Guide.penalty: 0 * ask(_))
    train(run, tmp_path / "zero.pt")
    assert same(plain, weights(run))


def test_a_checkpoint_that_does_not_fit_names_its_file(tmp_path: Path) -> None:
    """As on a full disk; torch's own writer says "unexpected pos" there."""
    run, (_, hard) = training(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/checkpoint\.pt'"):
            train(run, tmp_path / "state/checkpoint.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.parametrize("method", ["baseline", "gta-0.1"])
def test_a_killed_run_goes_on_to_the_same_bits(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path, method)
    run = training(tmp_path, method)
    epochs = iter([run.model.train, run.model.train])  # the third call of train() is the kill

    def kill_in_the_third_epoch(mode: bool = True) -> torch.nn.Module:
        return next(epochs)(mode)

    monkeypatch.setattr(run.model, "train", kill_in_the_third_epoch)
    with pytest.raises(StopIteration):
        train(run, tmp_path / "killed.pt")
    resumed = training(tmp_path, method, seed=0)
    history = train(resumed, tmp_path / "killed.pt").history
    assert same(whole, weights(resumed))
    assert history["epoch"].tolist() == [1, 2, 3]


def test_gta_keeps_the_attention_nearer_to_the_source(tmp_path: Path) -> None:
    distances = []
    for weight in (1e-6, 1.0):
        run = training(tmp_path, f"gta-{weight}", epochs=8, drop_path=0.0)
        distances.append(train(run, tmp_path / f"{weight}.pt").history["gta"].iloc[-1])
    assert distances[1] < distances[0] / 2


@pytest.mark.parametrize(
    ("method", "whole"), [("gta-1", False), ("gta-1+at-1", False), ("gta-1+delta-1", True)]
)
def test_the_source_goes_on_where_more_than_attention_is_read(
    tmp_path: Path, method: str, whole: bool
) -> None:
    run = training(tmp_path, method)
    ended: list[nn.Module] = []
    run.source.register_forward_hook(lambda module, *_: ended.append(module))
    train(run, tmp_path / "checkpoint.pt")
    assert bool(ended) is whole


def test_the_loss_falls_and_the_history_adds_up(tmp_path: Path) -> None:
    run = training(tmp_path, "gta-0.5", epochs=12, drop_path=0.0, label_smoothing=0.0)
    history = train(run, tmp_path / "c.pt").history
    assert history["cross_entropy"].iloc[-1] < history["cross_entropy"].iloc[0] / 2
    torch.testing.assert_close(
        torch.tensor(history["loss"]), torch.tensor(history["cross_entropy"] + 0.5 * history["gta"])
    )


def test_small_sets_go_on_until_min_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert training(tmp_path, epochs=5, min_steps=7).epochs == 5
    run = training(tmp_path, epochs=2, min_steps=7)
    assert run.epochs == 3  # three steps an epoch
    train(run, tmp_path / "checkpoint.pt")
    assert caplog.messages[0] == (
        "baseline, seed 0: 3 epochs of 3 steps, more than finetune.epochs, 2, to make finetune.min_steps, 7"
    )


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_is_not_finite_stops_with_epoch_step_and_components(tmp_path: Path) -> None:
    run = training(tmp_path, "gta-0.1", drop_path=0.0)
    with torch.no_grad():
        run.model.head.bias.fill_(float("nan"))
    with pytest.raises(InputError, match=r"epoch 1, step 1 of the epoch: cross_entropy nan, gta 0, loss nan"):
        train(run, tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()


def test_validation_rows(tmp_path: Path) -> None:
    run = training(tmp_path, epochs=5, validate_every=2)
    run.validate = lambda model: {"top1": float(model.training), "nll": 1.0}
    history = train(run, tmp_path / "c.pt").history
    assert history["val_top1"].isna().tolist() == [True, False, True, False, False]
    assert history["val_top1"].dropna().tolist() == [0, 0, 0]


def test_validation_changes_no_weight(tmp_path: Path) -> None:
    """Its loader draws a random number an iterator, and the model is put into evaluation and back."""
    plain = trained(tmp_path, "gta-0.1")
    run = training(tmp_path, "gta-0.1", validate_every=1)
    rows = images(tmp_path)
    loader = centre_loader(CentreImages(packed(tmp_path, rows), rows, 32, 1.0), 4, 0)

    def validate(model: nn.Module) -> dict[str, float]:
        seen = predict(model, CARD, loader, run.device, "fp32")
        return {"top1": float((seen["predicted"] == seen["label"]).mean()), "nll": 0.0}

    run.validate = validate
    history = train(run, tmp_path / "validated.pt").history
    assert history["val_top1"].notna().all()
    assert same(plain, weights(run))


def test_learning_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    shares = [lr_at(step, 100, 0.1) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == 1
    assert shares[55] == pytest.approx(0.5)
    assert 0 < shares[99] < 1e-3
    assert lr_at(0, 1, 0.0) == 1


def test_every_parameter_is_in_one_group_with_its_scale(tmp_path: Path) -> None:
    run = training(tmp_path)
    section = settings(layer_decay=0.5, head_lr_scale=10.0, weight_decay=0.1, lr=1e-3)
    scales = {}
    for group in parameter_groups(run.model, section, section.weight_decay):
        for parameter in group["params"]:
            assert id(parameter) not in scales
            scales[id(parameter)] = (group["lr_scale"], group["weight_decay"])
    found = {name: scales.pop(id(parameter)) for name, parameter in run.model.named_parameters()}
    assert not scales
    assert found["head.weight"] == (10, 0.1)
    assert found["head.bias"] == (10, 0)
    assert found["norm.weight"] == (1, 0)
    assert found["blocks.11.attn.qkv.weight"] == (1, 0.1)
    assert found["blocks.0.mlp.fc1.weight"] == (0.5**11, 0.1)
    assert found["patch_embed.proj.weight"] == (0.5**12, 0.1)
    assert found["pos_embed"] == found["cls_token"] == (0.5**12, 0)


def test_sgd(tmp_path: Path) -> None:
    optimizer = build_optimizer(
        training(tmp_path).model, nn.ModuleDict(), settings(optimizer="sgd", momentum=0.8)
    )
    assert isinstance(optimizer, torch.optim.SGD)
    assert {(group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {(0.8, True)}
    assert not same(trained(tmp_path, optimizer="sgd"), trained(tmp_path))
