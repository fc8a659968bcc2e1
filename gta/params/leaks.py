"""The `leaks` section: when two pictures count as one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gta.params.section import Section


class Leaks(Section):
    """A pair counts where both bounds hold."""

    bits: Annotated[int, Field(ge=0, le=32)]
    """Most bits, of 64, in which their perceptual hashes (Zauner's pHash) may differ."""
    difference: Annotated[float, Field(ge=0, le=255)]
    """Largest mean difference of their pixels, 0 to 255, when both are 64 x 64."""
