"""The report: everything is inside, nothing is fetched, what it says is escaped."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gta import report
from gta.report import Picture, Section, Table

SVG = b'<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg viewBox="0 0 1 1"><path d="M0 0"/></svg>\n'


class Page(HTMLParser):
    """Tags with their attributes, and the texts of table cells by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


def page() -> str:
    table = Table("By <hand>", [{"method": "A & B", "p": "0.1"}, {"method": "C", "p": "–"}])
    section = Section("Accuracy", "Chosen by `validation`, p < 0.05.", [Picture(SVG, "A picture")], [table])
    return report.render("Title", "two words", [section], {"torch": "1.0"}, "grid: <all>\n")


def test_tables_texts_and_pictures_are_in_it_escaped() -> None:
    text = page()
    assert Page(text).rows == [["method", "p"], ["A & B", "0.1"], ["C", "–"], ["torch", "1.0"]]
    assert "Chosen by <code>validation</code>, p &lt; 0.05." in text
    assert "By &lt;hand&gt;" in text
    assert "grid: &lt;all&gt;" in text
    assert text.count("<svg") == 1
    assert text.count("<?xml") == 0


def test_nothing_is_fetched() -> None:
    text = page()
    for tag, attributes in Page(text).tags:
        assert tag not in ("link", "iframe", "img", "object", "embed"), tag
        assert "src" not in attributes, attributes
        assert not (attributes.get("href") or "").startswith(("http", "//")), attributes
    assert not re.search(r"url\(|@import|fetch\(|import\(", text)


def test_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report.provenance(tmp_path)["git revision"] == "not a git repository"
    assert report.provenance(tmp_path)["dvc.lock"] == "none"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "params.yaml").write_text("a: 1\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = report.provenance(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean["git revision"])
    (tmp_path / "params.yaml").write_text("a: 2\n")
    changed = report.provenance(tmp_path)["git revision"]
    assert changed == f"{clean['git revision']} and changes that are not committed"
    lock = "stages: {evaluate: {cmd: a}, aggregate: {cmd: %s}}\n"
    found = []
    for text in (lock % "a", lock % "b", lock.replace("cmd: a", "cmd: c") % "a"):
        (tmp_path / "dvc.lock").write_text(text)
        found.append(report.provenance(tmp_path)["dvc.lock"])
    assert found[0] == found[1] != found[2]
    monkeypatch.setenv("PATH", "")
    assert report.provenance(tmp_path)["git revision"] == "not a git repository"
