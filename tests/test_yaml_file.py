"""YAML that people write: what is read, what is refused, and that DVC reads the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from capt_core.errors import CaptError
from capt_core.yaml_file import DEEPEST, core_value, load_yaml, other_reading, parse_yaml
from tests.refusals import refusal


def read(text: str, as_text: bool = False) -> Any:
    return parse_yaml(text, "f.yaml", as_text).value


def told(text: str, as_text: bool = False) -> str:
    message = refusal(parse_yaml, text, "f.yaml", as_text)
    assert message.startswith("f.yaml: ")
    assert len(message) < 300
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("Null", None),
        ("true", True),
        ("FALSE", False),
        ("0", 0),
        ("-12", -12),
        ("+1", 1),
        ("0x1F", 31),
        ("0.0", 0.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("1e-3", 0.001),
        ("12e03", 12000.0),
        ("2E5", 200000.0),
        ("nan", "nan"),
        ("1.2.3", "1.2.3"),
        ("1,000", "1,000"),
        ("0x", "0x"),
        ("e3", "e3"),
        ("_1", "_1"),
        ("y", "y"),
        ("a:b", "a:b"),
    ],
)
def test_words_and_numbers_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = read(f"k: {text}")["k"]
    assert found == value
    assert type(found) is type(value)
    # In quotes, and as the names of classes, everything is text.
    assert read(f"k: '{text}'")["k"] == text
    assert read(f"k: {text}", as_text=True)["k"] == text


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("010", "an octal number", "a number"),
        ("-07", "an octal number", "a number"),
        ("08", "text", "a number"),
        ("0o10", "text", "a number"),
        ("1_000", "a number", "text"),
        ("1__0.5", "a number", "text"),
        ("1:30", "a number", "text"),
        ("1:30.5", "a number", "text"),
        ("0b1", "a number", "text"),
        ("-0x1F", "a number", "text"),
        ("0x_", "a number", "text"),
        ("yes", "true or false", "text"),
        ("No", "true or false", "text"),
        ("ON", "true or false", "text"),
        ("off", "true or false", "text"),
    ],
)
def test_what_the_two_versions_of_yaml_read_differently_is_refused(
    text: str, old: str, new: str
) -> None:
    assert other_reading(text, core_value(text)) == old
    message = told(f"a: 1\nb: {{c: {text}}}")
    assert message.startswith(f"f.yaml: line 2: b.c: '{text}' is {old} in YAML 1.1, {new} in")
    assert "in quotes" in message
    assert read(f"c: {text}", as_text=True) == {"c": text}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: 2026-01-31", "line 1: a: '2026-01-31' is a date to some readers"),
        ("a: 2026-02-30", "is a date to some readers"),
        ("a: 2026-13-45", "is a date to some readers"),
        ("a: !!int abc", "line 1: a: tags are not read here; remove '!!int'"),
        ("a: !!str 5", "remove '!!str'"),
        ("a: !!bool x", "remove '!!bool'"),
        ("a: !!binary aGk=", "remove '!!binary'"),
        ("a: !!set {b}", "remove '!!set'"),
        ("a: !!timestamp x", "remove '!!timestamp'"),
        ("a: !!python/object/apply:os.system [echo]", "tags are not read here"),
        ("a: !own [1]", "remove '!own'"),
        ("a: .inf", "a: numbers must be finite, found '.inf'"),
        ("a: .nan", "numbers must be finite"),
        ("a: 1e400", "numbers must be finite, found '1e400'"),
        (f"a: {'9' * 5000}", "line 1: a: a number of 5000 characters"),
        (f"a: {'9' * 5000}.5", "a number of 5002 characters"),
        ("[" * 3000, "nested too deeply"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a: " + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested too deeply"),
        ("- " * 3000, "nested too deeply"),
        ("a: &a [*a]", "nested too deeply"),
        ("a: *b", "undefined alias"),
        ('a: "\\0"', "line 1: a: holds the character \\x00"),
        ("a: 1\nb: \0", "line 2: holds the character \\x00; remove it"),
        ("a: \x1b[2J", "holds the character \\x1b"),
        ("a: x\u2028b: y", "holds the character \\x2028"),
        ('a: "\\ud800"', "holds the character \\xd800"),
        ('a: "\\UFFFFFFFF"', "not valid YAML"),
        ("a:\n\t- 1", "line 2: not valid YAML"),
        ("a: [1, 2", "not valid YAML"),
        ("a: 1\n---\nb: 2", "line 2: not valid YAML (but found another document)"),
        ("1: 2", "line 1: 1: a key must be text, not a number; put it in quotes"),
        ("a: {true: 2}", "a.true: a key must be text"),
        ("null: 2", "a key must be text, not nothing"),
        ("[a, b]: 2", "a key must be a word"),
        ("no: 2", "'no' is true or false in YAML 1.1"),
        ("a: {<<: 3}", "<< takes the name of a mapping"),
        ("%YAML 9999999999999999999999.1\n---\na: 1", "not valid YAML"),
    ],
)
def test_what_no_file_of_settings_needs_is_refused(text: str, part: str) -> None:
    assert part in told(text)


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("train: 1\nx: 2\n\ntrain: 3\n", "line 4: the key 'train' stands there twice (first in"),
        ("a: {b: 1, c: {d: 1, 'd': 2}}", "line 1: a.c: the key 'd' stands there twice"),
        ("- x: 1\n  x: 1", "line 2: 0: the key 'x' stands there twice (first in line 1)"),
        ("caf\u00e9: 1\ncafe\u0301: 2", "stands there twice (first in line 1); keep one"),
    ],
)
def test_a_key_stands_once_in_its_mapping(text: str, part: str, as_text: bool) -> None:
    assert part in told(text, as_text)


def test_an_alias_is_what_it_names_and_a_merge_gives_way_to_own_keys() -> None:
    text = "x: &x {a: 1, b: 2}\ny: *x\nz: {<<: *x, b: 3}\nw: {<<: [{a: 5}, *x], c: 4}"
    document = read(text)
    assert document["y"] == {"a": 1, "b": 2}
    assert document["z"] == {"a": 1, "b": 3}
    assert document["w"] == {"a": 5, "b": 2, "c": 4}
    assert read("<<: {a: 1}", as_text=True) == {"<<": {"a": "1"}}


def test_aliases_of_aliases_end() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "more than 200000 values" in told("\n".join(lines))


def test_every_key_has_its_line() -> None:
    assert parse_yaml("a:\n  b: 1\n\nc: {d: [x, {e: 1}]}", "f").lines == {
        "a": 1,
        "a.b": 2,
        "c": 4,
        "c.d": 4,
        "c.d.1.e": 4,
    }


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"")
    assert load_yaml(path).value is None
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: caf\xc3\xa9\r\n")
    assert load_yaml(path).value == {"a": 1, "b": "caf\u00e9"}
    path.write_bytes("a: 1".encode("utf-16"))
    assert f"{path}: not UTF-8 text (byte 0)" in refusal(load_yaml, path)
    path.write_bytes("a: 1".encode("utf-16-le"))
    assert "line 1: holds the character \\x00" in refusal(load_yaml, path)
    path.write_bytes(b"a: 1\n" * 500_000)
    assert "larger than 2 MiB" in refusal(load_yaml, path)
    assert "Is a directory" in refusal(load_yaml, tmp_path)
    assert "No such file" in refusal(load_yaml, tmp_path / "none")
    assert "too long" in refusal(load_yaml, tmp_path / ("x" * 5000))
    assert "null byte" in refusal(load_yaml, tmp_path / "a\0b")


SCALARS = st.text("0123456789_.:eExXobB+-~ntfyesINaf", max_size=7) | st.sampled_from(
    [
        "yes",
        "No",
        "on",
        "null",
        "True",
        "2026-01-02",
        "a b",
        "'x'",
        '"1"',
        "1e5",
        "[1, a]",
        "{b: 2}",
    ]
)


@given(st.lists(SCALARS, max_size=4))
def test_dvc_reads_the_same(scalars: list[str]) -> None:
    text = "\n".join(f"k{number}: {scalar}" for number, scalar in enumerate(scalars))
    try:
        ours = parse_yaml(text, "f").value
    except CaptError:
        return
    try:
        theirs = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError):
        return  # such as +_, which ruamel takes for a number and cannot read
    for key, value in (ours or {}).items():
        # ruamel takes +_5 for a number and .5e3 for text, which no version of YAML does.
        if str(value).startswith(("+_", "-_")) or isinstance(theirs[key], str):
            continue
        assert theirs[key] == value
        assert type(theirs[key]) is type(value)
