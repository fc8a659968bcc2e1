"""How long stages take, by what they took: for the order in which they start, and for the time left."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from gta.atomic import atomic_file
from tools.cluster.grid import Grid
from tools.cluster.task import FOLDER, kind_of

SECONDS = FOLDER / "seconds.json"


class Clock:
    """Seconds that each stage took when it last ran, kept for later calls."""

    def __init__(self, path: Path = SECONDS) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        self._estimate()

    def took(self, name: str, seconds: float) -> None:
        self.seconds[name] = seconds
        self._estimate()
        with atomic_file(self.path) as partial:
            partial.write_text(json.dumps(self.seconds, indent=1, sort_keys=True))

    def expected(self, stage: Any) -> float | None:
        """What the stage took last, or others of its kind, or all others. None where nothing is known."""
        if stage.addressing in self.seconds:
            return self.seconds[stage.addressing]
        return self._means.get(kind_of(stage.addressing), self._mean)

    def _estimate(self) -> None:
        """Means of each kind, and of all: the head asks for all stages at every look."""
        kinds: dict[str, list[float]] = {}
        for name, seconds in self.seconds.items():
            kinds.setdefault(kind_of(name), []).append(seconds)
        self._means = {kind: fmean(seconds) for kind, seconds in kinds.items()}
        self._mean = fmean(self.seconds.values()) if self.seconds else None

    def ahead(self, grid: Grid, open_stages: Iterable[Any]) -> dict[str, float]:
        """Seconds from the start of each stage to the end of the longest chain of stages that wait for it.

        A stage of which nothing is known counts for one.
        """
        still = set(open_stages)
        chain: dict[str, float] = {}
        for stage in reversed(grid.steps):
            if stage in still:
                below = max((chain.get(lower.addressing, 0.0) for lower in grid.below(stage)), default=0.0)
                chain[stage.addressing] = below + (self.expected(stage) or 1.0)
        return chain

    def left(self, grid: Grid, open_stages: list[Any], workers: int) -> float | None:
        """Seconds until all are done: their sum over the workers, or the longest chain."""
        if not self.seconds:
            return None
        total = sum(self.expected(stage) or 0.0 for stage in open_stages)
        return max(total / max(1, workers), *self.ahead(grid, open_stages).values(), 0.0)


def size_of(stage: Any) -> int:
    """Bytes of what the stage reads: more of them, more to do, where nothing else is known."""
    return sum(dep.meta.size or 0 for dep in stage.deps if dep.meta)
