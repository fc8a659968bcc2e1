"""The names of methods in the grid: `baseline`, or terms such as `gta-0.1` joined by `+`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gta.errors import InputError

TERMS = ("gta",)
"""Penalties that a method may name; each takes a weight."""


@dataclass(frozen=True)
class Method:
    """A way to fine-tune. `weights` maps each penalty to its weight; plain fine-tuning has none."""

    name: str
    weights: dict[str, float]


def parse_method(name: str) -> Method:
    """`baseline` -> no penalty; `gta-0.1` -> GTA's penalty times 0.1 (the paper's lambda).

    Raises InputError where a term is unknown, comes twice, or has no weight that is finite and >= 0.
    """
    if name == "baseline":
        return Method(name, {})
    weights: dict[str, float] = {}
    for term in name.split("+"):
        kind, _, number = term.partition("-")
        if kind not in TERMS or kind in weights:
            raise InputError(
                f"method {name!r}: expected 'baseline' or '<term>-<weight>' joined by '+', each term once, "
                f"with term one of: {', '.join(TERMS)}; got {term!r}"
            )
        try:
            weights[kind] = float(number)
        except ValueError:
            raise InputError(
                f"method {name!r}: expected a weight such as '{kind}-0.1', got {term!r}"
            ) from None
        if not (math.isfinite(weights[kind]) and weights[kind] >= 0):
            raise InputError(f"method {name!r}: expected a finite weight >= 0, got {number!r}")
    return Method(name, weights)
