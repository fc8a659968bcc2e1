"""The campaign in its short form: a few trials of each part, of which nothing is lost, silent or unclear."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.campaign.__main__ import FETCHING, PARTS
from tools.campaign.ground import Ground, ground
from tools.campaign.page import Part, page, read, table
from tools.campaign.trial import Trial, unclear


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("study"), FETCHING) as made:
        yield made


@pytest.mark.parametrize("name", [name for name in PARTS if PARTS[name].short and name != "hostile"])
def test_nothing_is_lost_silent_or_unclear(name: str, study: Ground) -> None:
    """Hostile input is tests itself."""
    try:
        trials = list(PARTS[name].run(study, PARTS[name].short, random.Random(0)))
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    assert len(trials) == PARTS[name].short
    assert [trial for trial in trials if any(trial[2:])] == []


def test_damage_is_noticed(study: Ground) -> None:
    spoilt = study.copy(study.path.with_name("spoilt"))
    (spoilt.path / "objects/birds/index.csv").write_text("other")
    (spoilt.path / "sources/source.safetensors").unlink()
    (spoilt.path / "objects/.birds.partial").write_text("half")
    assert spoilt.differences() == [
        "objects/.birds.partial is left over",
        "objects/birds/index.csv differs",
        "sources/source.safetensors is missing",
    ]
    assert spoilt.lost(set(), 0, "Running stage 'source':").startswith("source was computed again; ")
    assert spoilt.lost(set(), 255, "ERROR: no").startswith("`make repro` exits with 255: ERROR: no")


def test_what_is_unclear() -> None:
    assert unclear("INFO x\nerror: data: No space left on device\n", "No space", "data") == ""
    assert unclear("error: No space left on device\n", "No space", "data").startswith("no error line with")
    assert unclear("Traceback (most recent call last):\nOSError\n", "OSError") == "a traceback: OSError"


def test_the_page_counts_what_was_stored(tmp_path: Path) -> None:
    trials = [Trial("disk: full", "a"), Trial("disk: full", "b", lost="x differs"), Trial("net: cut", "c")]
    Part("disk", trials, "2026-01-02", 120.0, 7, "DVC 3").store(tmp_path)
    Part("net", [], "2026-01-02", 0.0, 7, "DVC 3", "no net").store(tmp_path)
    parts = read(tmp_path, ["net", "disk", "kills"])
    assert [part.name for part in parts] == ["net", "disk"]
    assert parts[1].trials == trials
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(parts).splitlines()]
    assert ["disk: full", "2", "1", "0", "0"] in rows
    assert ["all", "3", "1", "0", "0"] in rows
    text = page(parts)
    assert "- disk: 3 trials; 2026-01-02, 2 minutes, seed 7, DVC 3" in text
    assert "- net: not tried: no net; " in text
    assert "- disk: full: b: lost: x differs" in text
