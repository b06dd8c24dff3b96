"""Reading YAML that people wrote, as far as all readers of YAML agree on what it says.

DVC reads the same files by YAML 1.2, other programs by YAML 1.1. Numbers and words are read here
by YAML 1.2 (its core schema), and those that YAML 1.1 reads otherwise are refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from capt_core.errors import CaptError, cut, reason, shown
from capt_core.text import normal, unfit_character
from capt_core.text_file import MOST_DIGITS, read_text
from capt_core.user_paths import brief

LARGEST = 2 * 2**20  # bytes
MOST_VALUES = 200_000  # an alias counts as often as it is used
DEEPEST = 40

Scalar = None | bool | int | float | str

_NULL = re.compile(r"|~|null|Null|NULL")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN)"
)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
# Control characters, and what only some readers of YAML take for the end of a line.
_STRANGE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\ufeff\ufffe\uffff]"
)
_MERGE = "<<"

_RESOLVER = yaml.resolver.Resolver()
_TAG = "tag:yaml.org,2002:"
_KINDS = {
    "null": "nothing",
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "str": "text",
    "timestamp": "a date",
}


def core_value(text: str) -> Scalar:
    """An unquoted scalar by YAML 1.2's core schema.

    Raises:
        ValueError: a number of more digits than any setting has.
    """
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return bool(_TRUE.fullmatch(text))
    whole, real = _INTEGER.fullmatch(text), _FLOAT.fullmatch(text)
    if (whole or real) and len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} characters")
    if whole:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(re.sub(r"\.(?=[iInN])", "", text)) if real else text


def other_reading(text: str, value: Scalar) -> str | None:
    """What YAML 1.1 takes an unquoted scalar for, if not for the value that YAML 1.2 has.

    Numbers such as ``1e-3`` and ``-.5`` are text in YAML 1.1 and pass: nobody means text by them,
    and DVC reads the number.
    """
    kind = _usual_tag(text, plain=True).removeprefix(_TAG)
    if kind == "int" and _LEADING_ZERO.fullmatch(text):
        return "an octal number"
    if kind == _kind(value) or (kind == "str" and isinstance(value, float)):
        return None
    return _KINDS.get(kind, f"its {kind} key")


def _usual_tag(text: str, plain: bool) -> str:
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (plain, not plain))  # type: ignore[no-untyped-call]
    return tag


def _kind(value: Scalar) -> str:
    return "null" if value is None else type(value).__name__


@dataclass(frozen=True)
class Document:
    """What a file says.

    Attributes:
        value: mappings, lists and scalars; None for an empty file.
        lines: line of every key, counted from 1, by its path such as ``fewshot.shots``.
    """

    value: Any
    lines: Mapping[str, int] = field(default_factory=dict)


def load_yaml(path: Path, advice: str = "", as_text: bool = False) -> Document:
    """Read a YAML file.

    Args:
        path: the file.
        advice: what to do where it cannot be read, for the message.
        as_text: take every scalar as the text that is written: names such as 007 and yes.

    Raises:
        CaptError: unreadable, no YAML, or what `parse_yaml` refuses.
    """
    # A command that looks at many runs reads its settings many times, and parsing is slow.
    return deepcopy(_parsed(read_text(path, advice, LARGEST), brief(path), as_text))


def parse_yaml(
    text: str, where: str, as_text: bool = False, numbered: bool = True, key: str = ""
) -> Document:
    """The one YAML document in a text.

    Args:
        text: the document.
        where: file or option that it comes from, for messages.
        as_text: as in `load_yaml`.
        numbered: name lines in messages.
        key: path of the value in the settings, where the text is not a whole file.

    Raises:
        CaptError: no YAML; several documents; a key twice in one mapping or a key that is no text;
            a number or word that YAML 1.1 and 1.2 read differently, a date, a number that is not
            finite; tags, control characters; more nesting or aliases than any such file has.
    """
    reader = _Reader(where, as_text, numbered)
    if strange := _STRANGE.search(text):
        line = f"line {text.count(chr(10), 0, strange.start()) + 1}: " if numbered else ""
        character = f"{ord(strange[0]):02x}"
        raise CaptError(f"{where}: {line}holds the character \\x{character}; remove it")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = None if root is None else reader.value(root, key, 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark and numbered else ""
        why = reason(ValueError(error.problem or error.context or "damaged"))
        raise CaptError(f"{where}: {place}not valid YAML ({why})") from error
    except RecursionError as error:
        raise CaptError(f"{where}: nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # A character or an escape that YAML does not allow.
        raise CaptError(f"{where}: not valid YAML ({reason(error)})") from error
    return Document(value, reader.lines)


_parsed = lru_cache(maxsize=8)(parse_yaml)


class _Reader:
    """Turns the nodes of a document into plain values."""

    def __init__(self, where: str, as_text: bool, numbered: bool) -> None:
        self.lines: dict[str, int] = {}
        self._where = where
        self._as_text = as_text
        self._numbered = numbered
        self._values = 0

    def value(self, node: yaml.Node, key: str, depth: int) -> Any:
        self._values += 1
        if depth > DEEPEST or self._values > MOST_VALUES:
            what = "nested too deeply" if depth > DEEPEST else f"more than {MOST_VALUES} values"
            raise self._error(node, key, f"{what}; such a file has no use for them")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, key)
        if isinstance(node, yaml.SequenceNode):
            self._refuse_tag(node, key, "seq")
            items = enumerate(node.value)
            return [self.value(item, _join(key, str(i)), depth + 1) for i, item in items]
        assert isinstance(node, yaml.MappingNode)
        self._refuse_tag(node, key, "map")
        return self._mapping(node, key, depth)

    def _mapping(self, node: yaml.MappingNode, key: str, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, int] = {}
        for name_node, value_node in node.value:
            name = self._name(name_node, key)
            # Equal names in another Unicode form look alike and are one to who wrote them.
            same = normal(name)
            if same in first:
                also = f" (first in line {first[same]})" if self._numbered else ""
                raise self._error(
                    name_node, key, f"the key {shown(name)} stands there twice{also}; keep one"
                )
            first[same] = name_node.start_mark.line + 1
            place = _join(key, name)
            self.lines.setdefault(place, first[same])
            if name == _MERGE and name_node.style is None and not self._as_text:
                for mapping in self._merged(value_node, place, depth):
                    merged = {**mapping, **merged}
            else:
                own[name] = self.value(value_node, place, depth + 1)
        return {**merged, **own}

    def _merged(self, node: yaml.Node, key: str, depth: int) -> Iterator[dict[str, Any]]:
        for each in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            mapping = self.value(each, key, depth + 1)
            if not isinstance(mapping, dict):
                raise self._error(node, key, "<< takes the name of a mapping, as in <<: *name")
            yield mapping

    def _name(self, node: yaml.Node, key: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, key, "a key must be a word, not a list or a mapping")
        if node.value == _MERGE and node.style is None:
            return _MERGE
        place = _join(key, str(node.value))
        name = self._scalar(node, place)
        if not isinstance(name, str):
            kind = _KINDS[_kind(name)]
            raise self._error(node, place, f"a key must be text, not {kind}; put it in quotes")
        return name

    def _scalar(self, node: yaml.ScalarNode, key: str) -> Scalar:
        text = str(node.value)
        if unfit := unfit_character(text):
            raise self._error(
                node, key, f"holds the character {unfit}, which nothing here can have; remove it"
            )
        plain = node.style is None
        self._refuse_tag(node, key, _usual_tag(text, plain).removeprefix(_TAG))
        if self._as_text or not plain:
            return text
        try:
            value = core_value(text)
        except ValueError as error:
            raise self._error(node, key, f"{error}; write a smaller one") from error
        other = other_reading(text, value)
        if other is not None:
            kind = _KINDS[_kind(value)]
            raise self._error(node, key, f"{shown(text)} {_ambiguous(other, kind)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise self._error(node, key, f"numbers must be finite, found {shown(text)}")
        return value

    def _refuse_tag(self, node: yaml.Node, key: str, usual: str) -> None:
        if node.tag != f"{_TAG}{usual}":
            tag = node.tag.replace(_TAG, "!!")
            raise self._error(
                node, key, f"tags are not read here; remove {shown(tag)} and write the value alone"
            )

    def _error(self, node: yaml.Node, key: str, problem: str) -> CaptError:
        line = f"line {node.start_mark.line + 1}: " if self._numbered else ""
        place = f"{cut(key)}: " if key else ""
        return CaptError(f"{self._where}: {line}{place}{problem}")


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _ambiguous(old: str, new: str) -> str:
    if old == _KINDS["timestamp"]:
        return "is a date to some readers of YAML; put it in quotes as text"
    plain = "true or false" if old == _KINDS["bool"] else "a plain number such as 8 or 0.5"
    return f"is {old} in YAML 1.1, {new} in YAML 1.2; write {plain}, or put it in quotes as text"


def scalar(text: str) -> str:
    """A text in YAML, quoted where a reader of YAML could take it for something else."""
    plain = re.fullmatch(r"[A-Za-z_][\w./-]*", text) and isinstance(core_value(text), str)
    return text if plain and not other_reading(text, text) else json.dumps(text, ensure_ascii=False)
