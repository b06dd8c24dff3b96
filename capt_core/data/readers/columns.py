"""Which columns of a table name the image, its label and its split, and what labels mean."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from capt_core.errors import CaptError, reason, shown
from capt_core.text import clean_name

PATH_COLUMNS: tuple[str, ...] = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image_path",
)
PATH_COLUMNS += ("image_file", "image_name", "image", "image_filename", "img_path", "img")
PATH_COLUMNS += ("filepaths",)
LABEL_COLUMNS: tuple[str, ...] = (
    "label",
    "class",
    "class_name",
    "category",
    "target",
    "labels",
    "classname",
)
LABEL_COLUMNS += ("label_name", "category_name", "class_label", "class_id", "label_id")
LABEL_COLUMNS += ("category_id", "label_text", "label_str")
SPLIT_COLUMNS: tuple[str, ...] = ("split", "set", "subset", "partition", "data_set")
_LIKE_LABELS = re.compile(r"(?:.*[ ._-])?(?:label|class|category)s?(?:[ _-](?:id|name|idx))?", re.I)
_LIKE_SPLITS = re.compile(r"(?:is)?(?:train|training|val|valid|validation|test)(?:set)?|fold")
_CODE = re.compile(r"[+-]?\d+(?:\.\d*)?|n\d{8}")
_WHOLE = re.compile(r"[+-]?\d+(?:\.0*)?")
_LIST = re.compile(r"\[(.*)\]", re.S)
# What pandas writes for a missing value; `none` and `NA` can be classes.
_MISSING = ("", "nan", "<na>")


def column_named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The first column whose name is one of `names`, in any case and with any word separators."""
    plain = {_plain(column): column for column in reversed(columns)}
    return next((plain[key] for key in map(_plain, names) if key in plain), None)


def _plain(column: str) -> str:
    return re.sub(r"[\s_-]", "", column.lower())


def chosen_column(columns: Sequence[str], chosen: str, setting: str, path: Path) -> str:
    """The column that a setting names, in any case.

    Raises:
        CaptError: there is no such column.
    """
    if chosen in columns:
        return chosen
    found = column_named(columns, [chosen.lower().strip()])
    if found is None:
        raise CaptError(f"{path}: {setting}={shown(chosen)}, but {columns_of(columns)}")
    return found


def column_setting(setting: str, column: str) -> str:
    """The argument that sets the column, as a shell takes it."""
    return f"--set {shlex.quote(f'data.{setting}={column}')}"


def columns_of(columns: Sequence[str], most: int = 8) -> str:
    """A table's columns, as a message names them."""
    return f"its columns are {column_names(columns, most)}" if columns else "it has no columns"


def column_names(columns: Sequence[str], most: int = 4) -> str:
    """The first columns' names, each cut short."""
    more = ", ..." if len(columns) > most else ""
    return ", ".join(name[:40] for name in columns[:most]) + more


def columns_like_splits(columns: Sequence[str]) -> list[str]:
    """Columns such as ``is_train`` and ``fold``, which say something of splits."""
    return [column for column in columns if _LIKE_SPLITS.fullmatch(_plain(column))]


def refuse_twice(columns: Sequence[str], name: str, path: Path) -> None:
    """Refuse a column that stands in the header twice, in whatever case.

    Raises:
        CaptError: two columns have this name.
    """
    same = [column for column in columns if column.lower().strip() == name.lower().strip()]
    if len(same) > 1:
        raise CaptError(f"{path}: two columns are called {shown(name)}; rename or remove one")


def label_columns(columns: Sequence[str], typed: Sequence[str] = ()) -> list[str]:
    """Columns that may hold the labels, the likeliest first; `typed` are declared as labels."""
    named = (column_named(columns, [name]) for name in LABEL_COLUMNS)
    found = [name for name in named if name is not None]
    return list(dict.fromkeys([*found, *typed]))


def no_label_column(columns: Sequence[str], path: Path) -> CaptError:
    """The error for a table none of whose columns is known to hold the labels."""
    likely = [column for column in columns if _LIKE_LABELS.fullmatch(column)]
    example = likely[0] if likely else "COLUMN"
    return CaptError(
        f"{path}: no column {LABEL_COLUMNS[0]} (or {', '.join(LABEL_COLUMNS[1:5])}, ...); "
        f"{columns_of(columns)}; name it with {column_setting('label_column', example)}"
    )


def choose_label(labels: Mapping[str, Sequence[str | None]], path: Path) -> tuple[str, str | None]:
    """The column to take of several that may hold the labels, and a line about the others.

    The first is taken, unless its labels are numbers or ids and another column gives them names:
    one name for each number, and one number for each name.

    Args:
        labels: each column's labels, the likeliest column first.
        path: of the table, for messages.

    Raises:
        CaptError: numbers and names that do not belong together one to one.
    """
    first, *others = labels
    if not others:
        return first, None
    taken = first
    if are_codes(labels[first]):
        taken = next((name for name in others if not are_codes(labels[name])), first)
    if taken != first:
        pairs = set(zip(labels[first], labels[taken], strict=True))
        if any(len(pairs) > len({pair[side] for pair in pairs}) for side in (0, 1)):
            raise CaptError(
                f"{path}: columns {first[:40]} (numbers) and {taken[:40]} (names) do not go "
                f"together one to one; choose one with {column_setting('label_column', taken)}"
            )
    left = column_names([name for name in labels if name != taken])
    return taken, (
        f"labels are taken from column {taken}, not from {left} (data.label_column names another)"
    )


def are_codes(labels: Sequence[str | None]) -> bool:
    """Whether all labels are numbers or WordNet ids, which say nothing to a language model."""
    given = {label for label in labels if label is not None}
    return bool(given) and all(_CODE.fullmatch(label) for label in given)


def plain_label(value: object) -> str | None:
    """A cell's label as text in normal form, without blanks around it; None: it has none.

    A list of one counts as its element, 3.0 as 3.

    Raises:
        ValueError: several labels, or a value that cannot be one.
    """
    while isinstance(value, list | tuple):
        if len(value) > 1:
            raise ValueError(f"{len(value)} labels (multi-label); an image needs exactly one")
        value = value[0] if value else None
    if isinstance(value, float | Decimal):
        if value != value:
            return None
        if not math.isfinite(value) or value % 1 != 0:
            raise ValueError(f"label {shown(value)} is neither text nor a whole number")
        value = int(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, dict):
        raise ValueError(f"label {shown(value)} is neither text nor a whole number")
    text = "" if value is None else clean_name(str(value))
    listed = _LIST.fullmatch(text)
    if listed:
        elements = [part.strip().strip("'\"").strip() for part in listed[1].split(",")]
        if len(elements) > 1:
            raise ValueError(f"{len(elements)} labels (multi-label); an image needs exactly one")
        text = elements[0]
    if len(text) > 1 and text[0] == text[-1] == '"':  # quoted after a blank, as in `a.png, "cat"`
        text = clean_name(text[1:-1])
    return None if text.lower() in _MISSING else text


def label_reader(names: Sequence[str] | None) -> Callable[[object], str | None]:
    """What makes a cell's label: `plain_label`, or the name of its number where they have names.

    With names, -1 stands for no label, as Hugging Face writes it. The function raises ValueError
    for a cell that is no label.
    """
    if names is None:
        return plain_label
    known = set(names)

    def read(cell: object) -> str | None:
        if isinstance(cell, str) and clean_name(cell) in known:
            return clean_name(cell)
        text = plain_label(int(cell) if isinstance(cell, bool) else cell)
        if text is None or text in known:
            return text
        if not _WHOLE.fullmatch(text):
            raise ValueError(f"label {shown(text)} is none of its {len(names)} names")
        number = int(text.partition(".")[0])
        if not -1 <= number < len(names):
            raise ValueError(f"label {number} is out of range: {len(names)} names")
        return None if number == -1 else names[number]

    return read


def without_fraction(labels: Sequence[str | None]) -> list[str | None]:
    """Labels 0.0, 1.0 as 0, 1, where all are whole numbers: pandas makes floats of them."""
    if not all(label is None or _WHOLE.fullmatch(label) for label in labels):
        return list(labels)
    return [label if label is None else label.partition(".")[0] for label in labels]


@dataclass(frozen=True)
class Labels:
    """Labels of the rows of a table.

    Attributes:
        column: that they are taken from.
        texts: the labels; None: none given.
        problems: row to what is wrong with it.
        notes: lines that the user should read.
    """

    column: str
    texts: list[str | None]
    problems: dict[int, str]
    notes: list[str]


def read_labels(
    cells: Mapping[str, Sequence[Any]], names: Mapping[str, Sequence[str] | None], path: Path
) -> Labels:
    """Labels of the column to take.

    Args:
        cells: columns that may hold the labels, the likeliest first.
        names: of the numbers in each column; None: they have none.
        path: of the table, for messages.

    Raises:
        CaptError: see `choose_label`.
    """
    labels: dict[str, list[str | None]] = {}
    problems: dict[str, dict[int, str]] = {name: {} for name in cells}
    for name, column in cells.items():
        read = label_reader(names.get(name))
        texts: list[str | None] = []
        for row, cell in enumerate(column):
            try:
                texts.append(read(cell))
            except ValueError as error:
                problems[name][row] = reason(error)
                texts.append(None)
        labels[name] = texts if names.get(name) else without_fraction(texts)
        if {"-1", "0"} <= set(labels[name]) and are_codes(labels[name]):
            unlabelled = [row for row, text in enumerate(labels[name]) if text == "-1"]
            problems[name] |= dict.fromkeys(unlabelled, "label -1, as others begin at 0, is none")
    taken, note = choose_label(labels, path)
    return Labels(taken, labels[taken], problems[taken], [note] if note else [])
