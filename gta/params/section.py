"""Reads one section of params.yaml into a strict, frozen class; a mistake is one line with its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gta.errors import InputError

PARAMS = Path("params.yaml")
LONGEST = 200
"""Characters of a value that a message shows."""


class Section(BaseModel):
    """Base of every section: unknown keys, wrong types and values out of range are refused."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


SectionT = TypeVar("SectionT", bound=Section)


def read_params(path: Path = PARAMS) -> dict[str, Any]:
    """The whole parameter file as plain Python values (YAML 1.2, as DVC reads it).

    Raises InputError where the file is missing, is no YAML, or is no mapping.
    """
    try:
        params = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; copy one from configs/") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(params, dict):
        raise InputError(f"{path}: expected a mapping of sections, got {type(params).__name__}")
    return params


def parse(section: type[SectionT], params: dict[str, Any], *keys: str, path: Path = PARAMS) -> SectionT:
    """The values under `keys` as an instance of `section`. path: the file that an error names.

    Raises InputError with a line for every mistake: key path, value, what was expected.
    """
    values: Any = params
    for depth, key in enumerate(keys):
        if not isinstance(values, dict) or key not in values:
            known = ", ".join(map(str, values)) if isinstance(values, dict) else "nothing"
            raise InputError(f"{path}: {'.'.join(keys[: depth + 1])}: missing; found {known}")
        values = values[key]
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise InputError(
            "\n".join(f"{path}: {_line(section, keys, item)}" for item in error.errors())
        ) from None


def load(section: type[SectionT], *keys: str, path: Path = PARAMS) -> SectionT:
    """Reads `path` and parses the section under `keys`."""
    return parse(section, read_params(path), *keys)


def _line(section: type[Section], keys: tuple[str, ...], error: Any) -> str:
    key = ".".join(part if part.isprintable() else repr(part) for part in [*keys, *map(str, error["loc"])])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key; expected one of: {', '.join(_fields(section, error['loc']))}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if ", got " in message:
        return f"{key}: {message}"
    value = repr(error["input"])
    return f"{key}: {message}, got {value if len(value) <= LONGEST else value[:LONGEST] + '...'}"


def _fields(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The keys that are known beside the one at `location`."""
    for step in location[:-1]:
        nested = model.model_fields[str(step)].annotation
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            break
        model = nested
    return list(model.model_fields)
