"""DELTA, carried over from the feature maps of convolutional networks to the tokens of a ViT.

Li, Xiong, Wang, Rao, Liu, Huan (2019), "DELTA: Deep Learning Transfer using Feature Map with Attention for
Convolutional Networks", arXiv 1901.09229.

    L = 1/2 sum over layers l and channels c of a_lc * C * ||F_lc - F_lc^src||^2 / N, averaged over images,
        + head/2 ||w_head||^2        head: `finetune.delta.head`

The carry-over is ours: a layer's feature map is a block's output, its N tokens stand for the pixels and its
C embedding dimensions for the channels. In the paper a_lc grows with the loss of a classifier on the frozen
source when channel c is removed, one forward pass a channel and layer. Here that rise of the loss is taken
to first order, -sum of F * dL/dF over the channel, so that one pass gives all channels, and the classifier
is a softmax regression fitted to its end. As in TLlib, a_l is the softmax of a fifth of the standardised
rises, and there is no weight decay; unlike there, the batch is averaged, so that 0.01 for sums over 48 images
is about 0.5 here, and the head's 0.01 is 0.02 of that. It sums over the four stages of a ResNet, we over all
blocks.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gta.attention import layout_of
from gta.guidance import numbers
from gta.penalties.base import Batch, Inputs, Penalty, Setting, head_of


class BlockOutputs:
    """Hooks that keep the latest outputs (B, N, C) of chosen blocks, in order of depth."""

    def __init__(self, model: nn.Module, layers: list[int]) -> None:
        self._blocks = [model.get_submodule(f"blocks.{layer}") for layer in layers]
        self.values: list[Tensor] = []

    def __enter__(self) -> BlockOutputs:
        self._handles = [self._blocks[0].register_forward_pre_hook(self._start)]
        self._handles += [block.register_forward_hook(self._keep) for block in self._blocks]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _start(self, *_: object) -> None:
        self.values = []  # cleared, what torch.compile made of an empty one would not fit the next pass

    def _keep(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self.values.append(output)


def weighted_distance(
    outputs: Float[Tensor, "layers batch tokens channels"],
    source: Float[Tensor, "layers batch tokens channels"],
    attention: Float[Tensor, "layers channels"],
) -> Float[Tensor, ""]:
    """The penalty; `attention` sums to 1 over the channels of a layer."""
    squares = (outputs.float() - source.detach().float()).square().mean(2).mean(1)
    return 0.5 * (attention * outputs.shape[3] * squares).sum()


def fit_classifier(
    features: Float[Tensor, "images width"], labels: Int[Tensor, " images"], num_classes: int
) -> nn.Linear:
    """Softmax regression with a ridge of 1e-3 (ours), by L-BFGS from zero: the same bits each time."""
    classifier = nn.Linear(features.shape[1], num_classes).to(features.device)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(classifier(features), labels) + 1e-3 * classifier.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]  # nor this
    return classifier.requires_grad_(False)


class FeatureMaps(Penalty):
    """Distance of the blocks' outputs to the source's, channel by channel."""

    needs_source = True
    replaces_decay = True

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        depth = len(layout_of(setting.model).attentions)
        self.layers = numbers("layer", setting.settings.delta.layers, depth)
        self.head_share = setting.settings.delta.head
        self._models = (setting.model, setting.source)
        self.register_buffer("attention", self._channel_attention(setting))

    def attached(self) -> ExitStack:
        contexts = ExitStack()
        self._outputs, self._of_source = (
            contexts.enter_context(BlockOutputs(model, self.layers)) for model in self._models
        )
        return contexts

    def forward(self, _: Batch) -> Tensor:
        assert isinstance(self.attention, Tensor)
        head = head_of(self._models[0])
        return weighted_distance(
            torch.stack(self._outputs.values), torch.stack(self._of_source.values), self.attention
        ) + 0.5 * self.head_share * (head.weight.square().sum() + head.bias.square().sum())

    def _channel_attention(self, setting: Setting) -> Tensor:
        """(layers, C): what each channel of the frozen source is worth to the classes at hand."""
        source = setting.source
        with Inputs(head_of(source)) as features:
            with torch.no_grad():
                seen = [
                    (source(images), features.value.float(), label)
                    for images, label in setting.centre_views()
                ]
            classifier = fit_classifier(
                torch.cat([value for _, value, _ in seen]),
                torch.cat([label for *_, label in seen]),
                setting.num_classes,
            )
            rises: Tensor | float = 0.0
            first = source.get_submodule(f"blocks.{self.layers[0]}")
            start = first.register_forward_hook(lambda _, __, output: output.requires_grad_())
            with BlockOutputs(source, self.layers) as outputs, torch.enable_grad():
                for images, labels in setting.centre_views():
                    source(images)
                    loss = F.cross_entropy(classifier(features.value.float()), labels, reduction="sum")
                    slopes = torch.autograd.grad(loss, outputs.values)
                    pairs = zip(outputs.values, slopes, strict=True)
                    rises = (
                        rises - torch.stack([(value * slope).sum((0, 1)) for value, slope in pairs]).detach()
                    )
            start.remove()
        assert isinstance(rises, Tensor)
        standard = (rises - rises.mean(1, keepdim=True)) / rises.std(1, keepdim=True).clamp_min(1e-12)
        return (standard / 5).softmax(1)
