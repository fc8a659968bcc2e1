"""Stage `aggregate`: every cell's measurements as tables, figures, metrics, and one page."""

from __future__ import annotations

import argparse
import logging
import sys
from itertools import product
from pathlib import Path

from gta import report, tables
from gta.atomic import atomic_file, atomic_folder
from gta.choice import choose, shown
from gta.errors import InputError, run
from gta.evaluated import Missing, read_cells, read_partly
from gta.leak_tables import read_leaks
from gta.params.aggregate import Aggregate
from gta.params.evaluate import Evaluate
from gta.params.grid import Grid
from gta.params.section import PARAMS, load
from gta.params.segment import Segment
from gta.parts import FOLDERS, PARTS, Files, Study
from gta.report import Section, Table
from gta.segment_tables import read_segments

log = logging.getLogger(__name__)

PARTIAL = "partial.txt"
"""Names what is missing, in a folder that holds a part of the grid alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder that `evaluate` has filled")
    parser.add_argument("--segments", type=Path, required=True, help="folder that `segment` has filled")
    parser.add_argument("--leaks", type=Path, required=True, help="folder that `leaks` has filled")
    parser.add_argument(
        "--state", type=Path, required=True, help="folder in which `finetune` keeps what training cost"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for tables, figures, report.html")
    parser.add_argument(
        "--partial", action="store_true", help="show what there is of the grid and name what is missing"
    )
    arguments = parser.parse_args()
    if arguments.partial:
        check_output(arguments.output)
    settings, grid = load(Aggregate, "aggregate"), load(Grid, "grid")
    bins = load(Evaluate, "evaluate").ece_bins
    missing: list[Missing] = []
    if arguments.partial:
        long, missing = read_partly(arguments.runs, grid)
    else:
        long = read_cells(arguments.runs, grid)
    known = set(long[[*tables.KEYS, "method"]].itertuples(index=False, name=None))
    cells = set(product(grid.datasets, grid.fractions, grid.methods))
    choices = choose(long[long["split"] == "val"], grid, settings.weight, cells - known)
    measured = tables.label(tables.measure(long[long["split"] == "test"]), grid, choices)
    segmented, unsegmented = read_segments(
        arguments.segments, load(Segment, "segment").on, grid, choices, arguments.partial
    )
    study = Study(
        runs=arguments.runs,
        state=arguments.state,
        grid=grid,
        settings=settings,
        bins=bins,
        long=long,
        measured=measured,
        shown=shown(long, grid, choices),
        segments=arguments.segments,
        segmented=segmented,
        leaks=read_leaks(arguments.leaks, grid.datasets, arguments.partial),
    )
    gaps = absent(missing, unsegmented)
    files = aggregate(study, gaps, report.provenance(Path()), PARAMS.read_text(encoding="utf-8"))
    if arguments.partial:
        names = [*(seeds.named() for seeds in missing), *unsegmented]
        print("\n".join(f"missing: {name}" for name in names) or "nothing is missing", file=sys.stderr)
        files[PARTIAL] = "".join(f"{name}\n" for name in names).encode()
    write(files, arguments.output)
    log.info(f"the table is {arguments.output / 'table.md'}, everything {arguments.output / 'report.html'}")


def check_output(folder: Path) -> None:
    """Raises InputError where a part of the grid would be written over something else."""
    if folder.exists() and any(folder.iterdir()) and not (folder / PARTIAL).exists():
        raise InputError(
            f"{folder}: expected a new folder, or one with an earlier --partial's {PARTIAL}, found neither"
        )


def aggregate(study: Study, gaps: list[Section], provenance: dict[str, str], parameters: str) -> Files:
    """File names and contents, `report.html` among them, which starts with `gaps`."""
    parts = [part(study) for part in PARTS]
    grid = study.grid
    page = report.render(
        "Fine-tuning with guided attention",
        f"{', '.join(grid.datasets)}; {len(grid.fractions)} fractions, {len(grid.methods)} methods, "
        f"{len(grid.seeds)} seeds",
        [*gaps, *(part.section for part in parts)],
        provenance,
        parameters,
    )
    files = {name: content for part in parts for name, content in part.files.items()}
    return {"report.html": page.encode(), **files}


def absent(missing: list[Missing], unsegmented: list[str]) -> list[Section]:
    """A section that names what is missing, if anything is."""
    rows = [
        {
            "data set": of.dataset,
            "training images": f"{of.fraction} %",
            "method": of.method,
            "seeds": ", ".join(map(str, of.seeds)),
        }
        for of in missing
    ]
    text = (
        "These have not been evaluated yet; what follows is without them and may still change. Cells from "
        "before the last change of `params.yaml` are shown as they are: `dvc status` names them."
    )
    shown = [Table("", rows)] if rows else []
    if unsegmented:
        shown.append(Table("Segmentations", [{"folder": folder} for folder in unsegmented]))
    return [Section("Missing", text, [], shown)] if shown else []


def write(files: Files, output: Path) -> None:
    """Everything has been made before anything is written."""
    for name, content in files.items():
        if "/" not in name:
            with atomic_file(output / name) as partial:
                partial.write_bytes(content)
    for name in FOLDERS:
        with atomic_folder(output / name) as folder:
            for path, content in files.items():
                if path.startswith(f"{name}/"):
                    (folder / Path(path).name).write_bytes(content)


if __name__ == "__main__":
    run(main)
