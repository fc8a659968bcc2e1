"""An entry of the `download` section: the embedded data set of cluttered handwritten digits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gta.params.section import Section

Count = Annotated[int, Field(ge=1)]


class Digits(Section):
    """Cluttered digits, made offline from scikit-learn's handwritten digits."""

    reader: Literal["digits"]
    train: Annotated[int, Field(ge=1, le=90)]
    """Training images of each of the ten classes."""
    test: Annotated[int, Field(ge=1, le=80)]
    """Test images of each class, drawn from other handwritten digits than the training images."""
    size: Annotated[int, Field(ge=32, le=512)]
    """Height and width in pixels."""
    clutter: Annotated[int, Field(ge=0, le=50)]
    """Largest number of stroke fragments on the background."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of everything random in the composition."""
