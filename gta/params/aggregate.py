"""The `aggregate` section: which weight is reported, and how tables and figures look."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gta.params.section import Section

Region = Literal["mask", "box"]
"""Where the object is known: its mask, its box."""


class Aggregate(Section):
    """What becomes of the measurements of all cells."""

    weight: Annotated[float, Field(ge=0)] | None
    """GTA's weight in the tables and in the figure of accuracy. null: chosen for each data set and
    fraction by the mean accuracy on validation images, the smaller one on a tie."""
    region: Region
    """Object region of the figure of attention and of metrics.json, where a data set has both; the tables
    have every region there is."""
    decimals: Annotated[int, Field(ge=0, le=4)]
    """Decimals of the percentages in the Markdown tables; csv files keep six digits."""
    width: Annotated[float, Field(ge=3, le=40)]
    """Inches across a figure with three or more panels beside each other."""
    height: Annotated[float, Field(ge=1, le=20)]
    """Inches that a row of panels takes."""
    dpi: Annotated[int, Field(ge=50, le=1200)]
    """Pixels an inch of the png files."""
