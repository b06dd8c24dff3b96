"""Reading settings: YAML to frozen sections, with errors that a person can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from capt_core.errors import CaptError


PACKAGED_PARAMS = Path(__file__).with_name("params.yaml")
"""The packaged settings: the one source of defaults."""


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys and wrong types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


_Model = TypeVar("_Model", bound=Section)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        CaptError: unreadable, no YAML, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CaptError(
            f"{path}: cannot read the settings ({error.strerror}); "
            "run from the project folder or give --params FILE"
        ) from error
    except UnicodeDecodeError as error:
        raise CaptError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CaptError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return mapping(document or {}, str(path))


def mapping(value: object, where: str) -> dict[str, Any]:
    """A value that must be a mapping; CaptError names `where` it is not."""
    if not isinstance(value, dict):
        raise CaptError(f"{where}: expected keys and values, found {value!r}")
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
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and section and name):
            raise CaptError(f"--set {override}: expected section.key=value")
        section = section.replace("-", "_")
        merged = merge(merged, {section: {name: _override_value(model, section, name, text)}})
    return merged


def _override_value(model: type[Section], section: str, name: str, text: str) -> object:
    if _expects_text(model, section, name):
        return None if text.strip() in ("null", "~") else text
    try:
        return yaml.safe_load(text) if text.strip() else ""
    except yaml.YAMLError as error:
        raise CaptError(f"--set {section}.{name}={text}: the value is not valid YAML") from error


def _expects_text(model: type[Section], section: str, name: str) -> bool:
    """Whether a key takes a path or a name, which YAML might read as a number."""
    field = model.model_fields.get(section)
    owner = field.annotation if field else None
    if isinstance(owner, type) and issubclass(owner, BaseModel) and name in owner.model_fields:
        return owner.model_fields[name].annotation in (str, str | None)
    return False


def validate(model: type[_Model], values: Mapping[str, Any], where: str) -> _Model:
    """A section from plain values.

    Raises:
        CaptError: unknown key, wrong type or value; the message names it and `where` it stands.
    """
    try:
        return model.model_validate(_floats(model, values))
    except ValidationError as error:
        problems = error.errors()
        location = _location(problems[0])
        # A value of several types fails once for each of them.
        alike = [problem for problem in problems if _location(problem) == location]
        raise CaptError(f"{where}: {location}: {_explain(model, alike)}") from error


_UNION_PART = re.compile(r"int|float|str|literal\[.*|list\[.*|constrained-int")


def _location(problem: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in problem["loc"] if not _UNION_PART.fullmatch(str(part)))


_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _floats(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Strict mode refuses 1 for a float, and YAML reads 1e-3, without a point, as text."""
    converted = dict(values)
    for name, field in model.model_fields.items():
        value = converted.get(name)
        if isinstance(value, dict) and isinstance(field.annotation, type):
            if issubclass(field.annotation, BaseModel):
                converted[name] = _floats(field.annotation, value)
        elif field.annotation in (float, float | None) and (
            type(value) is int or (isinstance(value, str) and _EXPONENT.fullmatch(value))
        ):
            converted[name] = float(value)
    return converted


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
        return str(problem["ctx"]["error"])
    expected = " or ".join(each["msg"].removeprefix("Input should be ") for each in problems)
    return f"should be {expected}, found {problem['input']!r}"
