"""One trial of the campaign: what was done, and what was lost, silent or unclear."""

from __future__ import annotations

import re
from typing import NamedTuple


class Trial(NamedTuple):
    """Empty texts where all went well."""

    kind: str
    """A row of the table, such as `disk: full`."""
    case: str
    lost: str = ""
    """After one repair bytes differ, something is left over, or finished work was computed again."""
    silent: str = ""
    """It ended with status 0 and wrong data, or without a word."""
    unclear: str = ""
    """A traceback, or no line that names the file, key or stage and the cause."""


def unclear(said: str, *patterns: str) -> str:
    """What is wrong with how a command failed: some line has to be an error that matches every pattern."""
    if "Traceback (most recent call last)" in said:
        return f"a traceback: {said.strip().splitlines()[-1]}"
    errors = [line for line in said.splitlines() if re.search(r"^(ERROR|error|fatal)\b", line)]
    if not any(all(re.search(pattern, line) for pattern in patterns) for line in errors):
        return f"no error line with {' and '.join(patterns)}: {' | '.join(errors[-3:]) or said[-300:]!r}"
    return ""
