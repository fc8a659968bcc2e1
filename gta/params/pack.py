"""The `pack` section: how the decoded images are kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gta.params.section import Section


class Pack(Section):
    """Images are decoded once; cells crop what is kept."""

    side: Annotated[int, Field(ge=16)] | None
    """Longest shorter side in pixels: larger images are made smaller. null keeps all as they are. An image
    takes three bytes a pixel."""
