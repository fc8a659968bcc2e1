"""What the README shows is what the pipeline wrote last, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
from PIL import Image
from repository import ROOT
from tiny import source_file

from gta.methods import MIXINGS, PENALTIES, SCOPES, parse_method

README = (ROOT / "README.md").read_text()


def test_the_readme_shows_the_committed_table() -> None:
    table = (ROOT / "results/table.md").read_text()
    assert table[table.index("| data set") :].strip() in README


def test_every_source_in_the_readme_is_known_to_timm() -> None:
    section = README.partition("## From what")[2].partition("## ")[0]
    names = re.findall(r"`((?:vit|deit|deit3|eva02|beit|beitv2)_[\w.]+)`", section)
    assert len(names) >= 14
    for name in names:
        known = timm.get_pretrained_cfg(name)
        assert known is not None, name
        assert "." not in name or known.has_weights, name


def test_every_term_in_the_readme_is_a_method() -> None:
    section = README.partition("## Against what")[2].partition("## ")[0]
    table = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    terms = set().union(*(parse_method(name).terms for cell in table for name in re.findall("`(.+?)`", cell)))
    assert terms == PENALTIES.keys() | MIXINGS.keys() | SCOPES.keys()


def test_a_trained_model_is_used_as_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(from pathlib.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    place = Path(re.findall(r'"(runs/.*?)"', code)[0])
    place.parent.mkdir(parents=True)
    source_file(tmp_path, num_classes=5).rename(place)
    Image.new("RGB", (40, 30)).save("new.jpg")
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["logits"].shape == (1, 5)
