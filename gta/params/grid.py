"""The `grid` section: which cells the pipeline holds."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field

from gta.errors import InputError
from gta.methods import parse_method
from gta.params.section import Section

ItemT = TypeVar("ItemT")


def unique(items: list[ItemT]) -> list[ItemT]:
    """The items. Raises ValueError where one is there twice."""
    twice = [item for item in items if items.count(item) > 1]
    if twice:
        raise ValueError(f"expected each value once, found {twice[0]!r} {len(twice)} times")
    return items


_UNIQUE = AfterValidator(unique)


def _method(name: str) -> str:
    try:
        parse_method(name)
    except InputError as error:
        raise ValueError(str(error)) from None
    return name


def _distinct(methods: list[str]) -> list[str]:
    weights: dict[Any, str] = {}
    for name in methods:
        method = parse_method(name)
        key = (tuple(sorted(method.weights.items())), method.mixing, method.scope)
        if key in weights:
            raise ValueError(
                f"expected different methods, found {weights[key]!r} and {name!r}, which are one"
            )
        weights[key] = name
    return methods


DatasetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Of an entry of the `download` section: lower case, digits, underscores."""


class Grid(Section):
    """The cells: every data set x fraction x method, each with all seeds."""

    datasets: Annotated[list[DatasetName], Field(min_length=1), _UNIQUE]
    """Names of entries of the `download` section: lower case, digits, underscores."""
    fractions: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(min_length=1), _UNIQUE]
    """Per cent of each class's training images, whole numbers from 1 to 100."""
    methods: Annotated[
        list[Annotated[str, AfterValidator(_method)]], Field(min_length=1), AfterValidator(_distinct)
    ]
    """`baseline` for plain fine-tuning; `gta-<weight>` for GTA, weight being the paper's lambda; other terms,
    and terms joined by `+`, as gta.methods lists them."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1), _UNIQUE]
    """Every cell is trained once with each of these."""
