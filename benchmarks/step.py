"""Times one training step, data already on the device: plain, GTA here, and GTA as people write it.

    python -m benchmarks.step --model vit_small_patch16_224 --batch 128 --compile     # a GPU
    python -m benchmarks.step --model vit_small_patch16_224 --batch 8                 # a CPU

Plain steps and GTA's are those of stage `finetune`, which a GPU replays as CUDA graphs, but for those that
are called launched. All variants run in one process on the same images, in turn, round after round; what is
printed and written (step-<model>-<batch>-<device>.csv and .json) are medians over rounds with quartiles, of
times and of the ratios that each round gives. Weights are random.
Of the others' ways, neither gives logits: both take the logarithm of the attention, which is the logits but
for a shift of each row.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import RESULTS, machine, matrix_rate, over, peak_memory, suffix, timed, write
from gta.attention import is_compiled, layout_of
from gta.beside import beside
from gta.guidance import Guide, attention_penalty
from gta.kernels import Packed, choose_kernels, lighten
from gta.precision import autocast, can_compile, pick_device, takes_bf16
from gta.replay import Replayed
from gta.targets import Targets

CLASSES, WEIGHT, TINY = 200, 0.1, 1e-30
COUNTED: dict[Any, Any] = {
    torch.ops.mkldnn._linear_pointwise: lambda tokens, *_, out_shape, **__: (
        2 * math.prod(out_shape) * tokens[-1]
    ),
    torch.ops.aten._addmm_activation: lambda _, tokens, weight, *__, **___: (
        2 * math.prod(tokens) * weight[-1]
    ),
}
"""Operators of `gta.kernels` that torch does not count."""
LIKE = {"compiled", "launched"}
"""Variants that are compared with a plain one of their kind."""


class Batch(NamedTuple):
    """A step's images (B, 3, H, W), normalised, and labels (B)."""

    images: Tensor
    labels: Tensor


Loss = Callable[[Batch], Tensor]
"""Runs the forward pass of a variant."""


@dataclass
class Bench:
    """What all variants share."""

    model: str
    size: int
    precision: Literal["auto", "bf16", "fp32"]
    device: torch.device
    batch: Batch
    depth: int | None = None
    """Blocks; None: as many as the model has."""

    @property
    def computes_in(self) -> str:
        """What the precision means on the device."""
        return "bf16" if takes_bf16(self.precision, self.device) else "fp32"

    def build(self, chosen: bool = True) -> Any:
        """timm's model, on the device; the same weights each time. chosen: with the kernels that stage
        `finetune` chooses, instead of timm's own."""
        torch.manual_seed(0)
        options = {} if self.depth is None else {"depth": self.depth}
        model = timm.create_model(self.model, img_size=self.size, num_classes=CLASSES, **options)
        if chosen:
            choose_kernels(model, self.precision, self.device)
        return model.to(self.device).train()


@dataclass
class Variant:
    """One way to make a step."""

    name: str
    model: nn.Module
    loss: Loss
    batch: Batch
    source: nn.Module | None = None
    replayed: bool = True
    """As stage `finetune` does it."""
    seconds: list[float] = field(default_factory=list)
    flops: int = 0
    memory: float = 0.0
    """Peak of a step's tensors, MiB: activations, both models, gradients, AdamW's moments."""

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        self._add: Callable[[Batch], Tensor] = self.gradient
        if self.replayed:
            self._add = Replayed(self.gradient, list(self.model.parameters()))

    def gradient(self, batch: Batch) -> Tensor:
        """Forward and backward."""
        loss = self.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        return loss.detach()

    def step(self, batch: Batch | None = None) -> None:
        """Forward, backward, update; of its own batch, or of another."""
        self.optimizer.zero_grad(set_to_none=True)
        self._add(self.batch if batch is None else batch)
        self.optimizer.step()


def plain(bench: Bench, model: nn.Module) -> Loss:
    """Cross-entropy alone."""

    def loss(batch: Batch) -> Tensor:
        with autocast(bench.precision, bench.device):
            logits = model(batch.images)
        return F.cross_entropy(logits.float(), batch.labels)

    return loss


def guided(
    bench: Bench, model: nn.Module, source: nn.Module, contexts: ExitStack, targets: Targets | None = None
) -> Loss:
    """GTA as stage `finetune` runs it."""
    compiled = is_compiled(model)
    guide = contexts.enter_context(Guide(source, model, run_source=False))
    if takes_bf16(bench.precision, bench.device):
        lighten(source, only_attention=True, packed=not compiled)
    contexts.enter_context(beside(source, model, [guide.of_source], compiled=compiled, targets=targets))
    cross_entropy = plain(bench, model)
    return lambda batch: cross_entropy(batch) + WEIGHT * guide.penalty()


def spared(bench: Bench, model: nn.Module, source: nn.Module, contexts: ExitStack) -> Loss:
    """The same in the later cells of a sweep. The file is read for each step, where it holds an epoch's."""
    folder = Path(contexts.enter_context(TemporaryDirectory()))
    targets = Targets(folder / "sweep", 0, math.inf)
    loss, count = guided(bench, model, source, contexts, targets), len(bench.batch.images)
    with targets.epoch(0, count):
        loss(bench.batch)

    def again(batch: Batch) -> Tensor:
        with targets.epoch(0, count):
            return loss(batch)

    return again


def whole_maps(bench: Bench, model: nn.Module, source: nn.Module, contexts: ExitStack) -> Loss:
    """Unfused attention, and hooks that keep every block's whole map of both models."""
    attentions: list[Any] = [*layout_of(model).attentions, *layout_of(source).attentions]
    for attn in attentions:
        attn.fused_attn = False
    ours = contexts.enter_context(kept_maps(model))
    theirs = contexts.enter_context(kept_maps(source.eval().requires_grad_(False)))
    cross_entropy = plain(bench, model)

    def loss(batch: Batch) -> Tensor:
        ours.clear()
        theirs.clear()
        with torch.no_grad(), autocast(bench.precision, bench.device):
            source(batch.images)
        return cross_entropy(batch) + WEIGHT * map_penalty(ours, theirs)

    return loss


@contextmanager
def kept_maps(model: Any) -> Iterator[list[Tensor]]:
    """Every block's attention (B, heads, tokens, tokens), as long as the context lasts."""
    maps: list[Tensor] = []
    handles = [
        block.attn.attn_drop.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
        for block in model.blocks
    ]
    yield maps
    for handle in handles:
        handle.remove()


def map_penalty(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """GTA's penalty of whole maps, by the logarithm of their [CLS] rows."""
    rows = [
        torch.stack([each[:, :, 0].float().clamp_min(TINY).log() for each in maps]) for maps in (ours, theirs)
    ]
    return attention_penalty(rows[0], rows[1])


class HuggingFace(nn.Module):
    """Hugging Face's ViT of the size of timm's `like`, with a classifier on its [CLS] token."""

    def __init__(self, like: Any, size: int) -> None:
        from transformers import ViTConfig, ViTModel  # here: it takes seconds

        super().__init__()
        block = like.blocks[0]
        config = ViTConfig(
            hidden_size=like.embed_dim,
            num_hidden_layers=len(like.blocks),
            num_attention_heads=block.attn.num_heads,
            intermediate_size=block.mlp.fc1.out_features,
            image_size=size,
            patch_size=like.patch_embed.patch_size[0],
        )
        config._attn_implementation = "eager"
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.head = nn.Linear(like.embed_dim, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and every block's attention."""
        out = self.vit(images, output_attentions=True)
        return self.head(out.last_hidden_state[:, 0]), list(out.attentions)


def hugging_face(bench: Bench, model: nn.Module, source: nn.Module) -> Loss:
    """`output_attentions=True` of both models."""
    source.eval().requires_grad_(False)

    def loss(batch: Batch) -> Tensor:
        with autocast(bench.precision, bench.device):
            with torch.no_grad():
                _, theirs = source(batch.images)
            logits, ours = model(batch.images)
        return F.cross_entropy(logits.float(), batch.labels) + WEIGHT * map_penalty(ours, theirs)

    return loss


def variants(bench: Bench, compiled: bool, contexts: ExitStack) -> Iterator[Variant]:
    """All, the first being what the others are compared with."""
    batch = bench.batch
    model = bench.build()
    yield Variant("plain", model, plain(bench, model), batch)
    model, source = bench.build(), bench.build()
    yield Variant("GTA", model, guided(bench, model, source, contexts), batch, source)
    if bench.device.type == "cpu":
        model, source = bench.build(), bench.build()
        yield Variant("GTA, source spared", model, spared(bench, model, source, contexts), batch, source)
    else:
        model = bench.build()
        yield Variant("plain, launched", model, plain(bench, model), batch, replayed=False)
        model, source = bench.build(), bench.build()
        loss = guided(bench, model, source, contexts)
        yield Variant("GTA, launched", model, loss, batch, source, replayed=False)
    model = bench.build(chosen=False)
    yield Variant("plain, timm's kernels", model, plain(bench, model), batch, replayed=False)
    model, source = bench.build(chosen=False), bench.build(chosen=False)
    loss = whole_maps(bench, model, source, contexts)
    yield Variant("GTA by whole maps", model, loss, batch, source, replayed=False)
    like = bench.build()
    model, source = (HuggingFace(like, bench.size).to(bench.device).train() for _ in range(2))
    loss = hugging_face(bench, model, source)
    yield Variant("GTA by Hugging Face's output_attentions", model, loss, batch, source, replayed=False)
    if compiled and can_compile(bench.device):
        model = bench.build()
        model.compile(dynamic=False)
        yield Variant("plain, compiled", model, plain(bench, model), batch)
        model, source = bench.build(), bench.build()
        model.compile(dynamic=False)
        yield Variant("GTA, compiled", model, guided(bench, model, source, contexts), batch, source)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="vit_small_patch16_224", help="a ViT of timm's with layers.Attention"
    )
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile too, half a minute a model")
    parser.add_argument("--only", default="", help="variants whose name holds this, by default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of each variant in a round")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device = pick_device()
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
    labels = torch.randint(CLASSES, (arguments.batch,), device=device)
    bench = Bench(arguments.model, arguments.size, arguments.precision, device, Batch(images, labels))
    with ExitStack() as contexts:
        found = []
        for variant in variants(bench, arguments.compile, contexts):
            if arguments.only in variant.name:
                prepare(variant, device)
                found.append(variant)
        rates = []
        for _ in range(arguments.rounds):
            rates.append(matrix_rate(device))
            for variant in found:
                variant.seconds.append(timed(variant.step, arguments.steps, device))
        for variant in found:
            count(variant)
    table = summary(found, float(np.median(rates)))
    facts = {
        **{name: getattr(arguments, name) for name in ("model", "batch", "size", "rounds", "steps")},
        "precision": bench.computes_in,
        "matrix TFLOP/s": round(float(np.median(rates)) / 1e12, 2),
        **machine(device),
    }
    write(table, facts, arguments.output / f"step-{arguments.model}-{arguments.batch}-{suffix(device)}")


def prepare(variant: Variant, device: torch.device) -> None:
    """Makes the steps in which it is compiled, and captured, whose memory is a replayed one's."""
    variant.step()
    held = 4 * _bytes(variant.model) + _bytes(variant.source)  # weights, gradients, two moments
    variant.memory = (peak_memory(variant.step, device) + held) / 2**20
    variant.step()


def count(variant: Variant) -> None:
    """Counts what a step does, which no replayed one would tell."""
    with (
        FlopCounterMode(display=False, custom_mapping=COUNTED) as counter,
        torch.compiler.set_stance("force_eager"),
    ):
        variant.gradient(variant.batch)
    variant.flops = counter.get_total_flops()


def _bytes(model: nn.Module | None) -> int:
    """Of its weights."""
    if model is None:
        return 0
    packed = [module.weight for module in model.modules() if isinstance(module, Packed)]
    return sum(each.nbytes for each in model.parameters()) + sum(2 * int(each.numel()) for each in packed)


def _kind(variant: Variant) -> str:
    kind = variant.name.partition(", ")[2]
    return kind if kind in LIKE else ""


def summary(found: list[Variant], rate: float) -> pd.DataFrame:
    """A row a variant: ms, quartiles, ratio to the first (see LIKE), share of the matrix rate, memory."""
    rows = []
    for variant in found:
        quartiles = np.percentile(variant.seconds, [25, 50, 75])
        alike = [each for each in found if _kind(each) == _kind(variant)]
        rows.append(
            {
                "step": variant.name,
                "ms": 1000 * quartiles[1],
                "first quartile": 1000 * quartiles[0],
                "third quartile": 1000 * quartiles[2],
                **over(variant.seconds, alike[0].seconds, "over plain"),
                "share of rate": variant.flops / quartiles[1] / rate,
                "peak MiB": variant.memory,
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
