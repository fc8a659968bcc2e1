"""What the README shows is what the pipeline wrote last."""

from __future__ import annotations

from importgraph import ROOT


def test_the_readme_shows_the_committed_table() -> None:
    table = (ROOT / "results/table.md").read_text()
    assert table[table.index("| data set") :].strip() in (ROOT / "README.md").read_text()
