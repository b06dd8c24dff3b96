"""Reading settings: YAML to frozen sections, with errors that a person can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from capt_core.errors import CaptError, cut, reason, shown
from capt_core.text import unfit_character
from capt_core.yaml_file import load_yaml, parse_yaml

PACKAGED_PARAMS = Path(__file__).with_name("params.yaml")
"""The packaged settings: the one source of defaults."""


def packaged(**constraints: Any) -> Any:
    """A setting whose default is the packaged file's value, with pydantic's field constraints."""
    return Field(default=_PACKAGED, **constraints)


_PACKAGED = object()


@cache
def packaged_settings() -> dict[str, Any]:
    """The packaged settings as plain values."""
    return mapping(load_yaml(PACKAGED_PARAMS).value, str(PACKAGED_PARAMS))


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys and wrong types.

    A subclass with ``path="fewshot"`` is that section of the packaged settings: fields declared
    with `packaged()` take their defaults from it, so that no default stands twice.
    """

    # Defaults are validated, too: a whole number in the packaged file does for a float.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )

    def __init_subclass__(cls, *, path: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, path: str | None = None, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if path is None:
            return
        values: Any = packaged_settings()
        for key in filter(None, path.split(".")):
            values = values[key]
        for name, field in cls.model_fields.items():
            if field.default is _PACKAGED:
                field.default = values[name]
        cls.model_rebuild(force=True)


_Model = TypeVar("_Model", bound=Section)


def mapping(value: object, where: str) -> dict[str, Any]:
    """A value that must be a mapping; CaptError names `where` it is not."""
    if not isinstance(value, Mapping):
        found = "nothing" if value is None else shown(value)
        raise CaptError(f"{where}: expected keys and values, found {found}")
    return dict(value)


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `extra` in their place, mappings merged key by key."""
    merged = dict(base)
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def with_overrides(
    model: type[Section], values: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """Values with ``section.key=value`` strings applied; `model` is that of all sections.

    Raises:
        CaptError: a string of another form or no YAML value.
    """
    merged = dict(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        section, *names = key.strip().split(".")
        if not (equals and section and all(names) and 1 <= len(names) <= MOST_PARTS):
            raise CaptError(f"--set {cut(override)}: expected section.key=value")
        path = [section.replace("-", "_"), *names]
        change: Any = _override_value(model, path, text)
        for name in reversed(path):
            change = {name: change}
        merged = merge(merged, change)
    return merged


MOST_PARTS = 10  # of a key of --set below its section


def _override_value(model: type[Section], path: Sequence[str], text: str) -> object:
    where = f"--set {cut('.'.join(path))}={cut(text)}"
    if _expects_text(model, path):
        if unfit := unfit_character(text):
            raise CaptError(
                f"{where}: holds the character {unfit}, which nothing here can have; remove it"
            )
        return None if text.strip() in ("null", "~") else text
    if not text.strip():
        return ""
    return parse_yaml(text, where, numbered=False).value


def _expects_text(model: type[BaseModel], path: Sequence[str]) -> bool:
    """Whether a key takes a path or a name, which YAML might read as a number."""
    field = model.model_fields.get(path[0])
    if field is None:
        return False
    if len(path) == 1:
        return field.annotation in (str, str | None)
    owner = field.annotation
    return (
        isinstance(owner, type) and issubclass(owner, BaseModel) and _expects_text(owner, path[1:])
    )


def validate(
    model: type[_Model],
    values: Mapping[str, Any],
    where: str,
    prefix: str = "",
    lines: Mapping[str, int] | None = None,
) -> _Model:
    """A section from plain values.

    Args:
        model: the section.
        values: its keys and values.
        where: file or option that they come from.
        prefix: path of the section in it, ending in a point; empty for the whole file.
        lines: line of every key of that file by its path, for messages.

    Raises:
        CaptError: unknown key, wrong type or value; the message names it and where it is.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = error.errors()
        location = _location(problems[0])
        # A value of several types fails once for each of them.
        alike = [problem for problem in problems if _location(problem) == location]
        place = cut(f"{prefix}{location}")
        line = _line(f"{prefix}{location}", lines or {})
        raise CaptError(f"{where}: {place}: {_explain(model, alike)}{line}") from error


def _line(key: str, lines: Mapping[str, int]) -> str:
    """Where a key stands, or what holds it, as the end of a message."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return f" (line {lines[key]})" if key else ""


_UNION_PART = re.compile(r"int|float|str|literal\[.*|list\[.*|constrained-int")


def _location(problem: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in problem["loc"] if not _UNION_PART.fullmatch(str(part)))


def _explain(model: type[BaseModel], problems: Sequence[Mapping[str, Any]]) -> str:
    problem = problems[0]
    if problem["type"] == "extra_forbidden":
        owner: type[BaseModel] = model
        for part in problem["loc"][:-1]:
            annotation = owner.model_fields[str(part)].annotation
            assert isinstance(annotation, type)
            owner = annotation
        near = difflib.get_close_matches(str(problem["loc"][-1]), owner.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(owner.model_fields)}"
        return f"unknown key; {hint}"
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] == "value_error":
        return reason(problem["ctx"]["error"])
    found = shown(problem["input"])
    if not problem["msg"].startswith(_SHOULD):
        return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, found {found}"
    expected = " or ".join(_INSTANCE.sub("", each["msg"][len(_SHOULD) :]) for each in problems)
    return f"should be {expected}, found {found}"


_SHOULD = "Input should be "
_INSTANCE = re.compile(r" or instance of \w+$")
