"""Tables in text files: delimited fields (CSV, TSV) and JSON lines, each row with its line."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capt_core.data.readers.columns import LABEL_COLUMNS, PATH_COLUMNS, column_named
from capt_core.data.readers.listing import SPLIT_WORDS
from capt_core.data.scan import is_image_name
from capt_core.errors import CaptError, reason, shown
from capt_core.text_file import NO_CHARACTERS, holds_no_characters

DELIMITED_ENDINGS = (".csv", ".tsv")
JSON_ENDINGS = (".jsonl", ".ndjson")
TEXT_ENDINGS = (*DELIMITED_ENDINGS, *JSON_ENDINGS)
LONGEST_LINE = 4 * 1024**2  # characters; a file without line ends must not fill the memory
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_DELIMITERS = ",;\t|"
_LFS = "version https://git-lfs.github.com"


@dataclass(frozen=True)
class _Format:
    """How a delimited file is written: its delimiter and the line of its header."""

    delimiter: str
    header_line: int


def text_columns(path: Path) -> list[str]:
    """Names of a text table's columns, without leading and trailing blanks.

    Raises:
        CaptError: not a text table, or one without a header.
    """
    if path.suffix.lower() in JSON_ENDINGS:
        keys: dict[str, None] = {}
        for _, row in _json_rows(path):
            keys.update(dict.fromkeys(row))
        return list(keys)
    for _, fields in _rows(path, _format(path), ()):
        return _header(path, fields)
    raise CaptError(f"{path}: an empty table; expected a header such as path,label")


def read_text_columns(path: Path, wanted: Sequence[str]) -> tuple[list[list[Any]], list[int]]:
    """Columns of a text table in the order of `wanted`, and the line that each row begins in.

    Rows without any content are passed over. Fields are what Python's `csv` module makes of them.

    Raises:
        CaptError: a row with another number of fields than the header; a quotation mark that takes
            in the lines after it; a line break in a wanted field; bytes that are no text.
    """
    values: list[list[Any]] = [[] for _ in wanted]
    lines: list[int] = []
    if path.suffix.lower() in JSON_ENDINGS:
        for line, row in _json_rows(path):
            lines.append(line)
            for column, name in zip(values, wanted, strict=True):
                column.append(row.get(name))
        return values, lines
    form = _format(path)
    columns = text_columns(path)
    places = [columns.index(name) for name in wanted]
    rows = _rows(path, form, places)
    next(rows)
    least = max((place + 1 for place, name in enumerate(columns) if name), default=0)
    for line, fields in rows:
        if not any(field.strip() for field in fields):
            continue
        if len(fields) < least or any(field.strip() for field in fields[len(columns) :]):
            raise CaptError(
                f"{path}: line {line}: fields: {len(fields)}, the header has {len(columns)}; quote "
                f"a field that holds {_spelled(form.delimiter)}"
            )
        lines.append(line)
        for column, place in zip(values, places, strict=True):
            column.append(fields[place])
    return values, lines


def _header(path: Path, fields: Sequence[str]) -> list[str]:
    """The header's names; a first line that is a row is refused, not taken for names."""
    names = [field.strip().lstrip("#").strip() for field in fields]
    if column_named(names, PATH_COLUMNS) or not any(is_image_name(name) for name in names):
        return names
    header = ["column"] * len(names)
    header[next(at for at, name in enumerate(names) if is_image_name(name))] = "path"
    for at, name in enumerate(names):
        if header[at] == "column":
            header[at] = "split" if name.lower() in SPLIT_WORDS else "label"
    line = ",".join(header)
    raise CaptError(
        f"{path}: no header, its first line is a row ({shown(names[0])}, ...); put a line with the "
        f"columns' names before it, such as {line}"
    )


def _format(path: Path) -> _Format:
    """The delimiter whose header names most known columns, then the most columns."""
    number = 0
    for number, line in enumerate(_lines(path), start=1):
        stated = re.fullmatch(r"\ufeff?\"?sep=(.)\"?\s*", line)
        if stated:  # as Excel writes it
            return _Format(stated[1], number + 1)
        if line.strip() and not (line.startswith("#") and not _known(line)):
            return _Format(max(_DELIMITERS, key=lambda mark: _score(line, mark)), number)
    return _Format(",", number + 1)


def _known(line: str) -> bool:
    return max(_score(line, mark)[0] for mark in _DELIMITERS) == 2


def _score(line: str, delimiter: str) -> tuple[int, int]:
    try:
        fields = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return 0, 0
    names = [field.strip().lstrip("#").strip() for field in fields]
    known = (column_named(names, columns) for columns in (PATH_COLUMNS, LABEL_COLUMNS))
    return sum(name is not None for name in known), len(fields)


def _rows(path: Path, form: _Format, used: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
    """Rows from the header on, with the line that each begins in; empty lines are passed over."""
    held: list[str] = []

    def feed() -> Iterator[str]:
        for number, line in enumerate(_lines(path), start=1):
            if number >= form.header_line:
                held.append(line)
                yield line

    reader = csv.reader(feed(), delimiter=form.delimiter)
    width = 0
    while True:
        held.clear()
        start = form.header_line + reader.line_num
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CaptError(
                f"{path}: line {start}: a field of more than {csv.field_size_limit()} characters; "
                "is a quotation mark not closed?"
            ) from error
        width = width or len(fields)
        _check_line_breaks(path, start, fields, held, form.delimiter, used, width)
        if fields:
            yield start, fields


def _check_line_breaks(
    path: Path,
    start: int,
    fields: Sequence[str],
    held: Sequence[str],
    delimiter: str,
    used: Sequence[int],
    width: int,
) -> None:
    """Refuse a row over several lines, unless an unused field that is quoted properly is the cause.

    A quotation mark that stands there by accident reaches to the next one, and the rows between
    them are read as one field.
    """
    if len(held) == 1 and '"' not in held[0]:
        return
    broken = [at for at in used if at < len(fields) and re.search(r"[\r\n]", fields[at])]
    if len(held) == 1 and not broken:
        _check_quotes(path, start, held[0], [fields[at] for at in used if at < len(fields)])
        return
    swallowed = bool(broken)
    try:
        list(csv.reader(held, delimiter=delimiter, strict=True))
    except csv.Error:
        swallowed = True
    for line in held[1:]:
        alone = next(csv.reader([line], delimiter=delimiter), [])
        swallowed |= len(alone) == width > 1 and any(
            is_image_name(field.strip().rstrip('"'))
            or (at in used and field and os.path.isfile(os.path.join(path.parent, field)))
            for at, field in enumerate(alone)
        )
    if swallowed:
        end = start + len(held) - 1
        raise CaptError(
            f"{path}: line {start}: a quotation mark takes in the line end"
            f"{f' and all up to line {end}' if end > start else ''}; remove it, or write it twice "
            "inside a quoted field"
        )


def _check_quotes(path: Path, line: int, text: str, fields: Iterable[str]) -> None:
    """Refuse a field that goes on behind its quotation mark: what is read stands nowhere."""
    for field in fields:
        if field not in text and field.replace('"', '""') not in text:
            raise CaptError(
                f"{path}: line {line}: {shown(field, 60)} goes on behind its closing quotation "
                "mark; remove the marks, or write those inside a quoted field twice"
            )


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=no_key_twice)
            if holds_no_characters(line, row):
                raise ValueError(NO_CHARACTERS)
        except (ValueError, RecursionError) as error:
            raise CaptError(
                f"{path}: line {number}: not a JSON object ({reason(error)}); expected one a line"
            ) from error
        if not isinstance(row, dict):
            raise CaptError(f"{path}: line {number}: expected a JSON object, found {shown(row)}")
        yield number, row


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for `json.loads`; raises ValueError where a key stands there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text file with their ends, of any of the three kinds, without its mark."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        encoding = next((_MARKS[mark] for mark in _MARKS if start.startswith(mark)), "utf-8-sig")
        with path.open(encoding=encoding, newline="") as text:
            number = 0
            while line := text.readline(LONGEST_LINE + 1):
                number += 1
                if number == 1 and line.startswith(_LFS):
                    raise CaptError(f"{path}: a Git LFS pointer, not the table; run: git lfs pull")
                if "\0" in line:
                    raise CaptError(
                        f"{path}: line {number} holds NUL characters, which no text has; save it "
                        "as UTF-8"
                    )
                if len(line) > LONGEST_LINE:
                    raise CaptError(
                        f"{path}: line {number} is longer than {LONGEST_LINE} characters; is this "
                        "a table of text?"
                    )
                yield line
    except UnicodeError as error:
        where = _undecodable_line(path) if encoding == "utf-8-sig" else ""
        raise CaptError(
            f"{path}: {where}not valid {encoding.removesuffix('-sig').upper()}; save it as UTF-8"
        ) from error
    except OSError as error:
        raise CaptError(
            f"{path}: cannot be read ({error.strerror or reason(error)}); check its permissions"
        ) from error


def _undecodable_line(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return f"line {number} is "
    return ""


def _spelled(delimiter: str) -> str:
    return "a tab" if delimiter == "\t" else f"the delimiter {delimiter}"
