"""One self-contained page of a finished grid: works from a file, without a network."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from ruamel.yaml import YAML

TEMPLATES = Path(__file__).parent / "templates"
PACKAGES = ("torch", "torchvision", "timm", "dvc", "pandas", "matplotlib")
CODE = ("gta", "stages", "dvc.yaml", "params.yaml")
"""What the git revision has to describe."""


class Picture(NamedTuple):
    """A figure of the page."""

    svg: bytes
    caption: str


class Table(NamedTuple):
    """A sortable table of the page."""

    title: str
    rows: list[dict[str, str]]
    """Column -> cell, alike in all rows."""


class Section(NamedTuple):
    """A heading and what is below it."""

    title: str
    text: str
    pictures: list[Picture]
    tables: list[Table]


def render(
    title: str, subtitle: str, sections: list[Section], provenance: dict[str, str], parameters: str
) -> str:
    """The page: HTML with its style, script and pictures inside."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"drawn": _inline, "coded": _coded}
    return environment.get_template("report.html").render(
        title=title, subtitle=subtitle, sections=sections, provenance=provenance, parameters=parameters
    )


def _coded(text: str) -> str:
    """Markdown's `code` as HTML's, the rest escaped."""
    return re.sub("`(.*?)`", r"<code>\1</code>", escape(text))


def _inline(svg: bytes) -> str:
    """An SVG file as an element of a page, without its XML header."""
    text = svg.decode()
    return text[text.index("<svg") :]


def provenance(root: Path) -> dict[str, str]:
    """What made the results in the repository `root`: code, data, packages, and the machine of this page."""
    revision = _git(root, "rev-parse", "HEAD") or "not a git repository"
    changed = _git(root, "status", "--porcelain", "--", *CODE)
    return {
        "git revision": revision + (" and changes that are not committed" if changed else ""),
        "dvc.lock": _locked(root / "dvc.lock"),
        "Python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
    }


def _git(root: Path, *command: str) -> str:
    try:
        done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _locked(path: Path) -> str:
    """The checksum of what dvc.lock says of every stage but `aggregate`, which is running."""
    if not path.exists():
        return "none"
    stages = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))["stages"]
    others = {name: stage for name, stage in stages.items() if name != "aggregate"}
    checksum = hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()
    return f"sha256 {checksum}, of its other stages"
