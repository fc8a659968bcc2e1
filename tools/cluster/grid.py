"""What DVC says of the pipeline: what is stale, what the run cache has, and the one writer of dvc.lock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.stage.cache import RunCacheNotFoundError, _get_stage_hash
from dvc_data.hashfile.hash_info import HashInfo

from tools.mend import mend_files, tidy

WRITE_EVERY = 60.0
WRITE_SHARE = 0.02
"""dvc.lock is written after so many seconds, or as many more as make its writing, whose cost grows with the
grid, this share of the time. What is not yet in it when the head is killed is in the run cache, and restored
from there."""


@dataclass
class Grid:
    """All stages that a plain `dvc repro` would look at, in its order, with what is known of each."""

    repo: Any
    graph: Any
    steps: list[Any]
    settled: dict[str, Any] = field(default_factory=dict)
    """Stages whose outputs lie in the working tree, by name; a changed one may wait for the lock file."""
    changed: dict[str, Any] = field(default_factory=dict)
    """Those of `settled` whose entry in the lock file is to be written."""
    next_write: float = field(default_factory=lambda: time.monotonic() + WRITE_EVERY)
    """When the lock file is to be written again."""

    def above(self, stage: Any) -> list[Any]:
        """The stages whose outputs it reads."""
        return list(self.graph.successors(stage))

    def below(self, stage: Any) -> list[Any]:
        """The stages that read its outputs."""
        return list(self.graph.predecessors(stage))

    def by_hand(self, stage: Any) -> bool:
        """Whether it has outputs that git keeps, not the cache: those are written in this folder alone."""
        return not all(out.use_cache for out in stage.outs)


@contextmanager
def opened() -> Iterator[Grid]:
    """The grid of this folder's pipeline."""
    with Repo(_wait_for_lock=True) as repo:
        with repo.lock:
            mend_files()
            graph = get_active_graph(repo.index.graph)
            steps = plan_repro(graph, collect_stages(repo, ["dvc.yaml"]))
        yield Grid(repo, graph, steps)


def settle(grid: Grid, stage: Any) -> bool:
    """Whether the stage need not run: nothing has changed, or the run cache has its outputs, which are then
    put in place. Those above it have to be settled."""
    if not stage.changed(upstream=grid.above(stage)):
        grid.settled[stage.addressing] = stage
        return True
    return not stage.frozen and restore(grid, stage)


def restore(grid: Grid, stage: Any) -> bool:
    """Puts the stage's outputs in place, if the cache has those of its lock entry or of an earlier run.

    Once its dependencies are saved, DVC would take those of the old lock entry for the new ones.
    """
    if not _cached(grid, stage, run_cache=False):
        stage.save_deps()
        clear_begun(grid, stage)
        for out in stage.outs:
            out.hash_info = HashInfo()
        if not _cached(grid, stage, run_cache=True):
            return False
    stage.remove_outs(ignore_remove=False)
    grid.repo.stage_cache.restore(stage)
    keep(grid, stage)
    return True


def clear_begun(grid: Grid, stage: Any) -> None:
    """Removes what a killed worker has begun of the stage's entry in the run cache: DVC fails over it."""
    key = _get_stage_hash(stage)
    tidy(Path(grid.repo.stage_cache.cache_dir, key[:2], key))


def _cached(grid: Grid, stage: Any, *, run_cache: bool) -> bool:
    try:
        grid.repo.stage_cache.restore(stage, run_cache=run_cache, dry=True)
    except RunCacheNotFoundError:
        return False
    return True


def keep(grid: Grid, stage: Any) -> None:
    """Takes what lies in the working tree for the stage's outputs, as `dvc repro` does after it ran."""
    by_hand = any(not out.use_cache for out in stage.outs if not (out.is_metric or out.is_plot))
    stage.save(run_cache=not by_hand)
    stage.commit()
    grid.settled[stage.addressing] = grid.changed[stage.addressing] = stage


def write(grid: Grid, *, last: bool = False) -> None:
    """Writes what has changed into the lock file, in the order of a serial run.

    That is why it stops at the first stage that is not settled; not with `last`, as `dvc repro -k`.
    """
    started = time.monotonic()
    due: list[Any] = []
    for stage in grid.steps:
        if stage.addressing not in grid.settled and not last:
            break
        if stage.addressing in grid.changed:
            due.append(stage)
    with grid.repo.scm_context:
        for path in {stage.path: None for stage in due}:
            mine = [stage for stage in due if stage.path == path]
            mine[0].dvcfile.dump_stages(mine, update_pipeline=False)
    for stage in due:
        del grid.changed[stage.addressing]
    took = time.monotonic() - started
    grid.next_write = started + max(WRITE_EVERY, took / WRITE_SHARE)
