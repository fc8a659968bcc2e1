"""Each penalty against loops written from its paper, in value and gradient; by hand; and its plumbing."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import centre_views, training
from torch import Tensor

from gta.mixing import mix, mixed_targets, pasted_patches, random_box, transmix_share
from gta.optim import build_optimizer
from gta.penalties.attention_transfer import map_cross_entropy
from gta.penalties.base import Batch
from gta.penalties.bituning import contrast
from gta.penalties.bss import spectral_shrinkage
from gta.penalties.delta import fit_classifier, weighted_distance
from gta.penalties.source_head import distillation, relationship, soft_cross_entropy
from gta.shards import shards_of
from gta.train import train


def softmax(values: list[Tensor]) -> list[Tensor]:
    total = sum(value.exp() for value in values)
    return [value.exp() / total for value in values]


def assert_same(got: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Values and gradients, the loops being in float64."""
    torch.testing.assert_close(got.double(), expected.double(), rtol=1e-5, atol=1e-7)
    slopes = torch.autograd.grad(got, inputs)
    for slope, wanted in zip(slopes, torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 2, 3, 5), (2, 3, 1, 7)])
def test_attention_transfer(shape: tuple[int, ...]) -> None:
    layers, batch, heads, tokens = shape
    logits = torch.randn(*shape, tokens, requires_grad=True)
    source = torch.randn(*shape, tokens)
    expected = torch.zeros((), dtype=torch.float64)
    for layer in range(layers):
        for image in range(batch):
            for head in range(heads):
                for row in range(tokens):
                    p = softmax(list(source[layer, image, head, row].double()))
                    q = softmax(list(logits[layer, image, head, row].double()))
                    entropy = -sum(a * b.log() for a, b in zip(p, q, strict=True))
                    expected = expected + entropy / (batch * heads * tokens)
    assert_same(map_cross_entropy(logits, source), expected, logits)


def test_attention_transfer_is_least_at_equality() -> None:
    source = torch.randn(2, 3, 5, 7, 7)
    logits = source.clone().requires_grad_()
    (slope,) = torch.autograd.grad(map_cross_entropy(logits, source), logits)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 2, 11, 3)])
def test_delta(shape: tuple[int, ...]) -> None:
    layers, batch, tokens, channels = shape
    outputs, source = torch.randn(shape, requires_grad=True), torch.randn(shape)
    attention = torch.rand(layers, channels).softmax(1)
    expected = torch.zeros((), dtype=torch.float64)
    for layer in range(layers):
        for image in range(batch):
            for channel in range(channels):
                norm = sum(
                    (outputs[layer, image, n, channel] - source[layer, image, n, channel]).double() ** 2
                    for n in range(tokens)
                )
                expected = expected + 0.5 * attention[layer, channel] * channels * norm / tokens / batch
    assert_same(weighted_distance(outputs, source, attention), expected, outputs)


def test_deltas_classifier_is_at_its_optimum() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(23, 5), torch.arange(23) % 3
    classifier = fit_classifier(features, labels, 3)
    weight = classifier.weight.clone().requires_grad_()
    loss = F.cross_entropy(F.linear(features, weight, classifier.bias), labels)
    (slope,) = torch.autograd.grad(loss + 1e-3 * weight.square().sum(), weight)
    assert slope.abs().max() < 1e-3
    assert not classifier.weight.requires_grad


def test_deltas_attention_is_the_first_order_rise_of_the_loss(tmp_path: Path) -> None:
    """Against scaling one channel down and up, for which first order is enough."""
    run = training(tmp_path, "delta-1", delta={"layers": [3, -1]})
    attention = run.penalties["delta"].attention
    assert attention.shape == (2, 192)
    torch.testing.assert_close(attention.sum(1), torch.ones(2))
    source = run.source
    with torch.no_grad():
        pairs = list(centre_views(tmp_path))
        features = torch.cat([source(images) for images, _ in pairs])
        classifier = fit_classifier(features, torch.cat([label for _, label in pairs]), 2)

        def loss(channel: int, factor: float) -> float:
            def scale(_: object, __: object, output: Tensor) -> Tensor:
                output = output.clone()
                output[..., channel] *= factor
                return output

            handle = source.blocks[3].register_forward_hook(scale)
            losses = [
                F.cross_entropy(classifier(source(images)).double(), label, reduction="sum").item()
                for images, label in pairs
            ]
            handle.remove()
            return sum(losses)

        rises = [(loss(channel, 0.7) - loss(channel, 1.3)) / 0.6 for channel in range(192)]
    measured = torch.tensor(rises)
    expected = ((measured - measured.mean()) / measured.std() / 5).softmax(0)
    correlation = torch.corrcoef(torch.stack([expected, attention[0]]))[0, 1]
    assert correlation > 0.99


@pytest.mark.parametrize(("shape", "count"), [((7, 5), 1), ((5, 11), 2), ((2, 3), 3)])
def test_bss(shape: tuple[int, int], count: int) -> None:
    """Squared singular values are the eigenvalues of F F^T, or of F^T F."""
    features = torch.randn(shape, requires_grad=True)
    wide = features.double() if shape[0] <= shape[1] else features.double().T
    expected = torch.linalg.eigvalsh(wide @ wide.T)[:count].sum()
    assert_same(spectral_shrinkage(features, count), expected, features)


def test_bss_leaves_a_smaller_last_batch_alone(tmp_path: Path) -> None:
    run = training(tmp_path, "bss-1")
    penalty, images = run.penalties["bss"], torch.randn(run.settings.batch_size, 3, 32, 32)
    with penalty.attached():
        for batch, shrunk in ((images, True), (images[1:], False)):
            logits = run.model(batch)
            assert (
                penalty(Batch(batch, logits, logits, logits, None, *shards_of(len(batch), 1))).item() > 0
            ) == shrunk


def test_bss_by_hand() -> None:
    assert spectral_shrinkage(torch.diag(torch.tensor([3.0, 1.0, 2.0])), 2).item() == pytest.approx(1 + 4)


def test_co_tuning() -> None:
    logits, source = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3)
    labels = torch.tensor([0, 1, 1, 0, 1, 3, 3])
    table = relationship(source, labels, 4)
    probabilities = [softmax(list(row.double())) for row in source]
    for label in (0, 1, 3):
        members = [p for p, own in zip(probabilities, labels.tolist(), strict=True) if own == label]
        expected = [float(sum(p[s] for p in members) / len(members)) for s in range(3)]
        assert table[label].tolist() == pytest.approx(expected, rel=1e-5)
    assert table[2].tolist() == [0, 0, 0]  # a class without an image
    chosen = [0, 1, 3, 1, 0]
    total = torch.zeros((), dtype=torch.float64)
    for row, label in zip(logits.double(), chosen, strict=True):
        total = total - sum(p * q.log() for p, q in zip(table[label], softmax(list(row)), strict=True)) / len(
            chosen
        )
    assert_same(soft_cross_entropy(logits, table[chosen]), total, logits)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_learning_without_forgetting(temperature: float) -> None:
    logits, source = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7)
    total = torch.zeros((), dtype=torch.float64)
    for ours, theirs in zip(logits.double(), source.double(), strict=True):
        p, q = softmax(list(theirs / temperature)), softmax(list(ours / temperature))
        total = total + sum(a * (a / b).log() for a, b in zip(p, q, strict=True)) / 5
    assert_same(distillation(logits, source, temperature), total, logits)
    assert distillation(source, source, temperature).item() == pytest.approx(0, abs=1e-6)


def test_bi_tunings_contrast() -> None:
    batch, classes, keys, temperature = 5, 3, 2, 0.7
    own, queued = (
        torch.randn(batch, requires_grad=True),
        torch.randn(batch, classes, keys, requires_grad=True),
    )
    labels = torch.tensor([0, 2, 1, 1, 0])
    total = torch.zeros((), dtype=torch.float64)
    for image, label in enumerate(labels.tolist()):
        similar = [own[image].double(), *queued[image, label].double()]
        others = [queued[image, k, j].double() for k in range(classes) if k != label for j in range(keys)]
        p = softmax([value / temperature for value in [*similar, *others]])
        u = 1 / (keys + 1)
        total = total + sum(u * (math.log(u) - p[j].log()) for j in range(keys + 1)) / batch
    assert_same(contrast(own, queued, labels, temperature), total, own, queued)


def test_bi_tunings_queue_and_its_slow_copy(tmp_path: Path) -> None:
    run = training(tmp_path, "bituning-1")
    penalty, model = run.penalties["bituning"], run.model
    start = copy.deepcopy(penalty.queue_h)
    with torch.no_grad():
        model.norm.bias += 1
    images, labels = torch.randn(5, 3, 32, 32), torch.tensor([1, 1, 0, 1, 1])
    with penalty.attached():
        logits = model(images)
        targets = F.one_hot(labels, 2).float()
        penalty(Batch(images, labels, targets, logits, images, *shards_of(len(images), 1))).backward()
    assert penalty.next_key.tolist() == [1, 1]  # four keys in a queue of three
    changed = (penalty.queue_h != start).any(2)
    assert changed.tolist() == [[True, False, False], [True, True, True]]
    assert penalty.queue_h.norm(dim=2).allclose(torch.ones(2, 3))
    slow = penalty.key_model.norm.bias
    torch.testing.assert_close(slow, torch.full_like(slow, 0.1), rtol=1e-4, atol=1e-5)  # momentum 0.9
    assert all(weight.grad is None for weight in penalty.key_model.parameters())
    assert penalty.projector.weight.grad is not None
    assert model.head.weight.grad is None  # the head's rows are keys, not trained by the contrast


def test_l2sp(tmp_path: Path) -> None:
    run = training(tmp_path, "l2sp-1", l2sp={"head": 0.5})
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in run.model.parameters():
            weight += 1e-2 * torch.randn_like(weight)
    start = dict(run.source.named_parameters())
    total = 0.0
    for name, weight in run.model.named_parameters():
        if name.startswith("head"):
            total += 0.25 * weight.double().square().sum().item()
        else:
            total += 0.5 * (weight.double() - start[name].double()).square().sum().item()
    empty = torch.empty(0)
    got = run.penalties["l2sp"](Batch(empty, empty, empty, empty, None, *shards_of(1, 1)))
    assert got.item() == pytest.approx(total, rel=1e-5)
    got.backward()
    weight = run.model.blocks[3].mlp.fc1.weight
    torch.testing.assert_close(weight.grad, weight - start["blocks.3.mlp.fc1.weight"])


def test_what_replaces_weight_decay_turns_it_off(tmp_path: Path) -> None:
    for method, off in (("l2sp-1", True), ("delta-1", True), ("bss-1", False), ("l2sp-0", False)):
        (tmp_path / method).mkdir()
        run = training(tmp_path / method, method, weight_decay=0.3)
        groups = build_optimizer(run.model, run.penalties, run.settings).param_groups
        assert max(group["weight_decay"] for group in groups) == (0 if off else 0.3)


def test_deltas_head_term(tmp_path: Path) -> None:
    run = training(tmp_path, "delta-1", delta={"head": 0.3})
    penalty, images = run.penalties["delta"], torch.randn(2, 3, 32, 32)
    with penalty.attached(), torch.no_grad():
        run.source(images)
        logits = run.model.eval()(images)
        got = penalty(Batch(images, logits, logits, logits, None, *shards_of(len(images), 1))).item()
    squares = sum(weight.square().sum().item() for weight in run.model.head.parameters())
    assert got == pytest.approx(0.15 * squares, rel=1e-5)


def test_no_gradient_reaches_the_source(tmp_path: Path) -> None:
    method = "gta-1+at-1+l2sp-1+delta-1+bss-1+cotuning-1+lwf-1+bituning-1"
    run = training(tmp_path, method, classes=5, epochs=1)
    before = {name: weight.clone() for name, weight in run.source.state_dict().items()}
    train(run, tmp_path / "c.pt")
    assert all(weight.grad is None for weight in run.source.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in run.source.state_dict().items())
    for model in (run.model, run.source):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_mixup_and_cutmix() -> None:
    images = torch.rand(4, 3, 8, 12)
    mixed = mix(images, "mixup", 0.8, (1, 2))
    expected = images * (1 - mixed.share) + images.flip(0) * mixed.share
    torch.testing.assert_close(mixed.images, expected)
    pasted = mix(images, "cutmix", 1.0, (1, 2))
    assert pasted.box is not None
    y0, y1, x0, x1 = pasted.box
    for y in range(8):
        for x in range(12):
            inside = y0 <= y < y1 and x0 <= x < x1
            assert torch.equal(pasted.images[:, :, y, x], (images.flip(0) if inside else images)[:, :, y, x])
    assert pasted.share == pytest.approx((y1 - y0) * (x1 - x0) / 96)
    assert torch.equal(mix(images, "cutmix", 1.0, (1, 2)).images, pasted.images)
    targets = mixed_targets(torch.tensor([0, 1, 2, 2]), torch.tensor([2, 2, 1, 0]), torch.tensor(0.25), 3)
    assert targets.tolist() == [[0.75, 0, 0.25], [0, 0.75, 0.25], [0, 0.25, 0.75], [0.25, 0, 0.75]]


def test_boxes_stay_inside_and_have_their_size_where_they_fit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        y0, y1, x0, x1 = random_box(20, 30, 0.5, rng)
        assert 0 <= y0 <= y1 <= 20
        assert 0 <= x0 <= x1 <= 30
        assert y1 - y0 <= 10
        if y0 > 0 and y1 < 20:
            assert y1 - y0 == 10


def test_transmix_against_its_rule_in_loops() -> None:
    batch, heads, rows, columns, prefix, patch = 4, 3, 2, 3, 2, 4
    torch.manual_seed(0)
    logits = torch.randn(batch, heads, prefix + rows * columns)
    images = torch.rand(batch, 3, rows * patch, columns * patch)
    for seed in range(20):
        mixed = mix(images, "cutmix", 1.0, (seed,))
        assert mixed.box is not None
        y0, y1, x0, x1 = mixed.box
        patches = pasted_patches(mixed, (rows, columns))
        got = transmix_share(logits, torch.tensor(mixed.share), patches, prefix)
        for image in range(batch):
            inside = total = 0.0
            for head in range(heads):
                attention = logits[image, head].double().softmax(0)
                for y in range(rows):
                    for x in range(columns):
                        value = attention[prefix + y * columns + x].item()
                        # nearest: a patch takes the mask's value at its first pixel
                        pasted = y0 <= y * patch < y1 and x0 <= x * patch < x1
                        total, inside = total + value, inside + value * pasted
            assert got[image].item() == pytest.approx((mixed.share + inside / total) / 2, rel=1e-5)


def test_transmix_reads_the_model_and_source_and_model_see_the_mixed_image(tmp_path: Path) -> None:
    run = training(tmp_path, "gta-1+transmix", epochs=1)
    seen: list[tuple[str, Tensor]] = []
    for name, network in (("source", run.source), ("model", run.model)):
        network.register_forward_pre_hook(lambda _, args, name=name: seen.append((name, args[0])))
    train(run, tmp_path / "c.pt")
    for (first, a), (second, b) in zip(seen[::2], seen[1::2], strict=True):
        assert {first, second} == {"source", "model"}
        assert a is b
