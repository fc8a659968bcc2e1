"""The campaign's page, from what its parts have stored."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from tools.campaign.trial import Trial

OUTCOMES = ["lost", "silent", "unclear"]
PAGE = """# The campaign

`make campaign` wrote this: faults done on purpose to a small study (every stage; data and weights from a
server of its own), each followed by one `make repro`, which is `dvc repro` after a look at what a killed DVC
may have left ([tools/mend.py](../tools/mend.py)).

- lost: afterwards bytes of outputs, cache or `dvc.lock` are others than in the undisturbed study, something
  is left over, or finished work was computed again;
- silent: exit status 0 with wrong data, or without a word;
- unclear: a traceback, or no line that names the file, key or stage and the cause.

{table}

{parts}
{failed}"""


@dataclass
class Part:
    """What one part of the campaign gave."""

    name: str
    trials: list[Trial]
    date: str
    seconds: float
    seed: int
    versions: str
    skipped: str = ""
    """Why it was not tried, if it was not."""

    def store(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}-{self.seed}.json").write_text(json.dumps(asdict(self), indent=1))


def read(folder: Path, names: list[str]) -> list[Part]:
    """The stored parts, in this order."""
    stored = [
        json.loads(path.read_text()) for name in names for path in sorted(folder.glob(f"{name}-*.json"))
    ]
    return [Part(**values | {"trials": [Trial(*trial) for trial in values["trials"]]}) for values in stored]


def table(parts: list[Part]) -> str:
    """A row a kind of fault, and one of all, as markdown."""
    trials = pd.DataFrame([trial for part in parts for trial in part.trials], columns=Trial._fields)
    trials[OUTCOMES] = trials[OUTCOMES] != ""
    counts = trials.groupby("kind", sort=False)[OUTCOMES].sum()
    counts.insert(0, "tried", trials.groupby("kind", sort=False).size())
    counts.loc["all"] = counts.sum()
    text: str = counts.reset_index().to_markdown(index=False)
    return text


def page(parts: list[Part]) -> str:
    about = [
        f"- {part.name}: {f'not tried: {part.skipped}' if part.skipped else f'{len(part.trials)} trials'}; "
        f"{part.date}, {part.seconds / 60:.0f} minutes, seed {part.seed}, {part.versions}"
        for part in parts
    ]
    failed = [
        f"- {trial.kind}: {trial.case}: {outcome}: {getattr(trial, outcome)}"
        for part in parts
        for trial in part.trials
        for outcome in OUTCOMES
        if getattr(trial, outcome)
    ]
    named = "\n## What failed\n\n" + "\n".join(failed) + "\n" if failed else ""
    return PAGE.format(table=table(parts), parts="\n".join(about), failed=named)
