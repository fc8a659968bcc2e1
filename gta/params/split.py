"""The `split` section: which training images are kept for validation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gta.params.section import Section


class Split(Section):
    """How the official training images are divided; the official test images are never touched."""

    val: Annotated[int, Field(ge=0, le=80)]
    """Per cent of each class's training images, rounded up, kept for choosing the weight. They are taken
    away first and are the same for every fraction. 0 is the literature's protocol: no validation, and
    then the weight has to be given in `aggregate.weight`."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of the order in which a class's images are taken."""
