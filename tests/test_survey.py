"""docs/models.md: complete for the timm at hand, true where it is tried again, and able to find a fault."""

from __future__ import annotations

import pytest
from repository import ROOT

from gta import readers
from tools.survey_models import faults, names, survey

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "models.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| model")
]
READ = {row[0]: row[1:] for row in ROWS if len(row) > 2}
REFUSED = {row[0]: row[1] for row in ROWS if len(row) == 2}


def smallest(table: dict[str, str]) -> list[str]:
    """A model of each class or reason: the first by name among those that are quick."""
    chosen: dict[str, str] = {}
    for name, kind in sorted(table.items(), key=lambda item: ("small" not in item[0], item[0])):
        chosen.setdefault(kind, name)
    return sorted(chosen.values())


def test_every_model_of_timm_with_a_cls_token_is_in_the_table() -> None:
    assert sorted(names()) == sorted(READ.keys() | REFUSED.keys())


@pytest.mark.parametrize("name", smallest({name: row[0] for name, row in READ.items()}))
def test_one_model_of_each_class_is_read_as_the_table_says(name: str) -> None:
    found = survey(name)
    assert faults([found]) == []
    assert [found.attention, str(found.heads), str(found.prefix), str(found.tokens)] == READ[name][:4]


@pytest.mark.parametrize("name", smallest(REFUSED))
def test_one_model_of_each_reason_is_refused_with_it(name: str) -> None:
    assert survey(name).refusal == REFUSED[name]


def test_a_wrong_reading_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_rotate", lambda _, tokens, __: tokens)
    assert faults([survey("vit_small_patch16_dinov3")]) == ["vit_small_patch16_dinov3"]
