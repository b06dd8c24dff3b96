"""Text and JSON files from elsewhere: what is read, and how the rest is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from capt_core.errors import cut
from capt_core.text_file import read_json, read_text
from capt_core.user_paths import usable_path
from tests.refusals import refusal


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "not valid JSON (the file is empty)"),
        (" \n", "the file is empty"),
        ("[NaN]", "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
        ("[1e999]", "the number '1e999' is too large"),
        ("9" * 5000, "a number of 5000 digits"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' occurs twice"),
        ('{"caf\u00e9": 1, "cafe\u0301": 2}', "occurs twice"),
        (f'{{"{"k" * 5000}": 1, "{"k" * 5000}": 2}}', "kkk... occurs twice"),
        ('["\\ud800"]', "no characters"),
        ("{'a': 1}", "not valid JSON"),
        ("[1] x", "not valid JSON"),
        (b"\xff\xfe[\x00", "not UTF-8 text (byte 0)"),
    ],
)
def test_json_that_would_be_read_wrongly_is_refused(
    tmp_path: Path, content: str | bytes, part: str
) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(read_json, path, "get it again")
    assert message.startswith(f"{path}: ")
    assert part in message
    assert len(message) < len(str(path)) + 250


def test_sound_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, -2.5e3, true, null, "\\ud83d\\ude00"]}')
    assert read_json(path) == {"a": [1, -2500.0, True, None, "\U0001f600"]}
    path.write_text('["\\ud800"]')
    assert read_json(path, any_text=True) == ["\ud800"]


def test_a_file_that_cannot_be_read_is_named_with_the_advice(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "none", "No such file"),
        (tmp_path / ("x" * 5000), "too long"),
        (tmp_path / "a\0b", "null byte"),
    ):
        message = refusal(read_text, path, "do this")
        assert why in message
        assert message.endswith("; do this")
        assert len(message) < 600
    (tmp_path / "large").write_bytes(b"x" * (2**20 + 1))
    assert "larger than 1 MiB" in refusal(read_text, tmp_path / "large", "", 2**20)


def test_paths_that_no_file_has_are_refused() -> None:
    for path in (None, "a b/\u00e9", "~", "a" * 255, "[x]"):
        assert usable_path(path) == path
    for path, why in (
        ("a\0b", "the character \\x00"),
        ("a" * 256, "longer than a path can be"),
        ("\u00e9" * 128, "longer than a path can be"),
        ("a/" * 3000, "longer than a path can be"),
        ("~no-such-user-here/x", "no such user"),
    ):
        with pytest.raises(ValueError, match=why.replace("\\", "\\\\")):
            usable_path(path)


def test_long_names_are_cut() -> None:
    assert cut("a\nb") == "a\\nb"
    assert len(cut("x" * 101)) == 100
