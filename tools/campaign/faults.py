"""A fault of the disk or the net: done to one stage, undone, repaired, judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

from tools.campaign.ground import Ground
from tools.campaign.trial import Trial, unclear

Harm = Callable[[Ground], AbstractContextManager[None]]
"""Does harm to the study as long as the context is open."""


ATTEMPTS = 3
"""How often a fault without any effect is tried again: it may have come too late."""


class Fault(NamedTuple):
    kind: str
    case: str
    stage: str
    """That runs meanwhile; empty where the study lacks it."""
    harm: Harm
    cause: str
    """What its error line has to say: a regular expression."""
    word: str = r"/|\w\.\w|reproduce '"
    """What names the file; where DVC itself fails, its line may name the stage."""
    passes: bool = False
    """Whether it is overcome: the stage ends well, with the right bytes, and says `cause` on the way."""


def judged(faults: Iterable[Fault], ground: Ground) -> Iterator[Trial]:
    """Each fault in turn; where something is lost, the next one finds the study whole again."""
    with ground.spare() as spare:
        for fault in faults:
            for _ in range(ATTEMPTS):
                ground.forget(fault.stage)
                with fault.harm(ground):
                    status, said = ground.repository.attempt("dvc", "repro", *ground.targets)
                if status or fault.passes or ground.differences():
                    break
            silent = obscure = ""
            if status:
                obscure = unclear(said, fault.cause, fault.word)
                if fault.passes:
                    obscure = f"it stopped: {said.strip().splitlines()[-1]}"
            elif found := ground.differences():
                silent = "status 0, but " + "; ".join(found[:3])
            elif fault.cause not in said:
                silent = f"status 0, and no word of {fault.cause}"
            status, said = ground.repair()
            lost = ground.lost({fault.stage}, status, said)
            yield Trial(fault.kind, f"{fault.case} in {fault.stage}", lost, silent, obscure)
            if lost:
                ground.restore(spare)
