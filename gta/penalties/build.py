"""The penalties of a method, by their names in the grid."""

from __future__ import annotations

from torch import nn

from gta.methods import Method
from gta.penalties.attention_transfer import AttentionTransfer
from gta.penalties.base import Penalty, Setting
from gta.penalties.bituning import BiTuning
from gta.penalties.bss import SpectralShrinkage
from gta.penalties.delta import FeatureMaps
from gta.penalties.gta import GuidedAttention
from gta.penalties.l2sp import StartingPoint
from gta.penalties.source_head import CoTuning, LearningWithoutForgetting

CLASSES: dict[str, type[Penalty]] = {
    "gta": GuidedAttention,
    "at": AttentionTransfer,
    "l2sp": StartingPoint,
    "delta": FeatureMaps,
    "bss": SpectralShrinkage,
    "cotuning": CoTuning,
    "lwf": LearningWithoutForgetting,
    "bituning": BiTuning,
}


def build_penalties(method: Method, setting: Setting) -> nn.ModuleDict:
    """A module a penalty of non-zero weight, in the order of the table: weight 0 is plain fine-tuning."""
    return nn.ModuleDict(
        {kind: made(setting) for kind, made in CLASSES.items() if method.weights.get(kind, 0) > 0}
    )


def reads_source(method: Method) -> set[str]:
    """The method's penalties that the frozen source has to see every batch for."""
    return {kind for kind, weight in method.weights.items() if weight > 0 and CLASSES[kind].needs_source}


def needs_keys(method: Method) -> bool:
    """Whether the method needs a second view of each image."""
    return any(CLASSES[kind].needs_keys for kind, weight in method.weights.items() if weight > 0)
