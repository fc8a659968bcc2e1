"""The names of methods in the grid: `baseline`, or terms joined by `+`, such as `gta-0.1+transmix`.

This table is all that parameters, tables and figures know of a method; what each term does is in
gta.penalties, gta.mixing and gta.scope.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

from gta.errors import InputError

BASELINE = "baseline"


class Kind(NamedTuple):
    """A penalty that a method may add to the cross-entropy."""

    label: str
    """As in tables and figures."""
    usual: float
    """The weight of its paper or public code; GTA's is not known, and this is only an example."""


PENALTIES = {
    "gta": Kind("GTA", 0.1),  # Seo et al., 2024, arXiv 2401.02656
    "at": Kind("attention transfer", 3),  # Li et al., 2024, arXiv 2411.09702; --atd_weight of its code
    "l2sp": Kind("L2-SP", 0.01),  # Li et al., 2018, arXiv 1802.01483
    "delta": Kind("DELTA", 0.5),  # Li et al., 2019, arXiv 1901.09229; TLlib's 0.01 times its batch of 48
    "bss": Kind("BSS", 0.001),  # Chen et al., NeurIPS 2019
    "cotuning": Kind("Co-Tuning", 2.3),  # You et al., NeurIPS 2020
    "lwf": Kind("LwF", 4),  # Li and Hoiem, 2016, arXiv 1606.09282; TLlib's weight
    "bituning": Kind("Bi-Tuning", 1),  # Zhong et al., 2020, arXiv 2011.06182
}
MIXINGS = {
    "mixup": "Mixup",  # Zhang et al., 2017, arXiv 1710.09412
    "cutmix": "CutMix",  # Yun et al., 2019, arXiv 1905.04899
    "transmix": "TransMix",  # Chen et al., 2021, arXiv 2111.09833
}
SCOPES = {
    "probe": "linear probe",  # the head alone is trained
    "lastblock": "last block",  # and with it the last block and the norm behind it
    "lora": "LoRA",  # Hu et al., 2021, arXiv 2106.09685
}
GROUPS = {"mixing": MIXINGS, "scope": SCOPES}
"""Terms without a weight; a method has at most one of each group."""
NEEDS_SOURCE_HEAD = {"cotuning", "lwf"}
"""Penalties that read the source's own classifier."""


@dataclass(frozen=True)
class Method:
    """A way to fine-tune."""

    name: str
    weights: dict[str, float]
    """Penalty -> weight; plain fine-tuning has none."""
    mixing: str | None = None
    """How pairs of images are mixed; None: not at all."""
    scope: str | None = None
    """What is trained; None: everything."""

    @property
    def family(self) -> str:
        """What methods that differ in their weights alone have in common, for tables: `GTA + TransMix`."""
        labels = [kind.label for key, kind in PENALTIES.items() if key in self.weights]
        labels += [MIXINGS[self.mixing]] if self.mixing else []
        labels += [SCOPES[self.scope]] if self.scope else []
        return " + ".join(labels) or BASELINE

    @property
    def terms(self) -> set[str]:
        """The kinds of all its terms."""
        return set(self.weights) | {term for term in (self.mixing, self.scope) if term}


def parse_method(name: str) -> Method:
    """`baseline` -> plain fine-tuning; `gta-0.1+transmix` -> GTA's penalty times 0.1 (the paper's lambda),
    mixed.

    Raises InputError where a character would not do in a folder's name and a command, a term is unknown or
    comes twice, a penalty has no weight that is finite and >= 0, another term has one, or terms exclude each
    other.
    """
    if name == BASELINE:
        return Method(name, {})
    if re.search(r"[^a-zA-Z0-9.+-]", name):  # float() would take 'gta-1 ' and other scripts' digits
        raise InputError(f"method {name!r}: expected letters, digits, '.', '+' and '-' alone")
    weights: dict[str, float] = {}
    found: dict[str, str] = {}
    for term in name.split("+"):
        kind, dash, number = term.partition("-")
        if kind in PENALTIES and kind not in weights:
            weights[kind] = _weight(name, kind, number)
            continue
        group = next((group for group, kinds in GROUPS.items() if kind in kinds), None)
        if group is None or group in found or dash:
            raise InputError(
                f"method {name!r}: expected 'baseline', or terms joined by '+', each once: "
                f"'<penalty>-<weight>' with penalty one of: {', '.join(PENALTIES)}; one of: "
                f"{', '.join(MIXINGS)}; one of: {', '.join(SCOPES)}; got {term!r}"
            )
        found[group] = kind
    method = Method(name, weights, **found)
    _check_combination(method)
    return method


def _weight(name: str, kind: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        raise InputError(
            f"method {name!r}: expected a weight such as '{kind}-{PENALTIES[kind].usual:g}', got "
            f"{kind + '-' * bool(number) + number!r}"
        ) from None
    if not (math.isfinite(weight) and weight >= 0):
        raise InputError(f"method {name!r}: expected a finite weight >= 0, got {number!r}")
    return weight


def _check_combination(method: Method) -> None:
    reasons = {
        "a linear probe trains nothing that a penalty reads": method.scope == "probe" and method.weights,
        "TransMix reads attention that a linear probe leaves as it is; take cutmix": (
            method.scope == "probe" and method.mixing == "transmix"
        ),
        "Bi-Tuning contrasts images by their one label, which mixed images do not have": (
            method.mixing and "bituning" in method.weights
        ),
        "LoRA does not touch the weights that L2-SP holds": (
            method.scope == "lora" and "l2sp" in method.weights
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise InputError(f"method {method.name!r}: these terms do not combine: {reason}")


def families(names: list[str]) -> dict[str, list[str]]:
    """Methods but the baseline by family (those that differ in weights alone), each in order of weight."""
    found: dict[str, list[str]] = {}
    for name in names:
        if name != BASELINE:
            found.setdefault(parse_method(name).family, []).append(name)
    return {family: sorted(members, key=_in_order) for family, members in found.items()}


def _in_order(name: str) -> tuple[float, ...]:
    return tuple(parse_method(name).weights.values())


def of_weight(names: list[str], given: float | None) -> list[str]:
    """Of a family whose only penalty is GTA, the methods with its `given` weight, if there are; else all."""
    return [name for name in names if parse_method(name).weights == {"gta": given}] or names
