"""Stage `code`: for each script one small file, which changes when the script or what it imports does.

It stands in for some forty code deps of each stage: DVC reads and writes every dep of the whole grid after
every stage.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from gta.atomic import atomic_file
from gta.errors import run
from gta.imports import imported_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for a <script>.txt each")
    arguments = parser.parse_args()
    for script in sorted(Path("stages").glob("[!_]*.py")):
        if script != Path("stages/code.py"):
            with atomic_file(arguments.output / f"{script.stem}.txt") as partial:
                partial.write_text(hashes(script), encoding="utf-8")


def hashes(script: Path) -> str:
    """A line with SHA-256 and path for the script and every module it imports, as `sha256sum` writes them."""
    files = [script, *map(Path, sorted(imported_files(script, Path())))]
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.as_posix()}\n" for path in files)


if __name__ == "__main__":
    run(main)
