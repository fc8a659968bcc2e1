"""Kills, faults and hostile input, and what was lost, silent or unclear.

    make campaign                                  # all of it, about an hour on two cores: docs/campaign.md
    PYTHONPATH=tests python -m tools.campaign net --short

Each part and seed is stored in build/campaign, so that one may be run again alone; the page holds all that
are there. Ctrl-C ends a part early.
"""

from __future__ import annotations

import argparse
import logging
import platform
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tools.campaign.disk import disk
from tools.campaign.ground import Ground, ground
from tools.campaign.hostile import ROOT, hostile
from tools.campaign.kills import kills
from tools.campaign.net import net
from tools.campaign.page import Part, page, read, table
from tools.campaign.remotes import remotes
from tools.campaign.trial import Trial
from tools.campaign.workers import on_slurm, pool

STORE, PAGE = ROOT / "build/campaign", ROOT / "docs/campaign.md"
FETCHING = ("objects@birds", "source")
"""The stages that download, and what they need."""
ALL = 1000
"""More than there are of any fault."""


class Work(NamedTuple):
    run: Callable[[Ground, int, random.Random], Iterator[Trial]]
    targets: tuple[str, ...]
    """Stages of its study; all where empty."""
    trials: int
    short: int
    """Trials in the short form; none where a test of CI does the same (tests/test_cluster.py)."""


PARTS = {
    "kills": Work(kills, (), 104, 2),
    "pool": Work(pool, (), 24, 0),
    "slurm": Work(on_slurm, (), 15, 0),
    "disk": Work(disk, (), ALL, 2),
    "net": Work(net, FETCHING, ALL, 1),
    "remotes": Work(remotes, FETCHING, ALL, 1),
    "hostile": Work(hostile, FETCHING, ALL, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all where none is named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="a few trials of each, and no page")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    # a shell's background jobs ignore it, and hand that on to all that they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    names = [name for name in arguments.parts or PARTS if PARTS[name].short or not arguments.short]
    done = [run(name, arguments.seed, arguments.short) for name in names]
    if not arguments.short:
        for part in done:
            part.store(STORE)
        PAGE.write_text(page(read(STORE, list(PARTS))), encoding="utf-8")
    print(table(done))
    sys.exit(any(any(trial[2:]) for part in done for trial in part.trials))


def run(name: str, seed: int, short: bool) -> Part:
    """One part, in a study of its own."""
    work, started, trials, skipped = PARTS[name], time.time(), list[Trial](), ""
    targets, count = (FETCHING, work.short) if short else (work.targets, work.trials)
    with TemporaryDirectory() as folder, ground(Path(folder), targets) as study:
        try:
            for trial in work.run(study, count, random.Random(seed)):
                logging.info(" | ".join(filter(None, trial)))
                trials.append(trial)
        except NotImplementedError as reason:
            skipped = str(reason)
        except KeyboardInterrupt:
            logging.warning("%s: ended early; what was tried counts", name)
    versions = [
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in ("dvc", "torch")),
    ]
    date = time.strftime("%Y-%m-%d", time.gmtime(started))
    return Part(name, trials, date, time.time() - started, seed, ", ".join(versions), skipped)


if __name__ == "__main__":
    main()
