"""The user's own images as a CSV, JSON-lines or Parquet table lists them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from capt_core.data.parquet_images import open_table
from capt_core.data.readers.columns import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    choose_label,
    chosen_column,
    column_named,
    columns_of,
    label_columns,
    label_reader,
    no_label_column,
    refuse_twice,
    without_fraction,
)
from capt_core.data.readers.listing import SPLIT_WORDS, Listing, listing_rows
from capt_core.data.readers.text_tables import TEXT_ENDINGS, read_text_columns, text_columns
from capt_core.data.splits import Rejects
from capt_core.errors import CaptError, reason, shown
from capt_core.params import Data

_LONGEST_PATH = 4096  # of Linux
_ADDRESS = re.compile(r"(?:data:|[a-z][a-z0-9+.-]*://)", re.I)
_BASE64 = re.compile(r"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk0)[A-Za-z0-9+/=\s]{40,}")


@dataclass(frozen=True)
class _Table:
    """What a table lists, and the line or row number of each of its rows."""

    listing: Listing
    numbers: Sequence[int]
    unit: str


def read_tables(files: Sequence[Path], root: Path, data: Data, rejects: Rejects) -> Listing:
    """List the images that tables name: a path and a label per row, a split if there is one.

    Paths are relative to the table's folder; those below it may be absolute. Several tables are
    splits, named for them. Splits may also be the first folders of the paths.

    Raises:
        CaptError: not a readable table, a column is missing or there are several, an unknown split;
            or (unless quarantined) a label that is none.
    """
    tables = {
        path: _read(path, root, split, data, rejects)
        for path, split in file_splits(files, root).items()
    }
    parts = [(path, table.unit, table.numbers) for path, table in tables.items()]

    def place(row: int) -> str:
        for path, unit, numbers in parts:
            if row < len(numbers):
                return f"{path}: {unit} {numbers[row]}"
            row -= len(numbers)
        raise IndexError(row)

    rows = pl.concat([table.listing.rows for table in tables.values()])
    notes = dict.fromkeys(note for table in tables.values() for note in table.listing.notes)
    return _split_by_folders(Listing(rows, notes=list(notes), place=place))


def file_splits(files: Sequence[Path], root: Path) -> dict[Path, str | None]:
    """Each file's split by its name (``train.csv``, ``test-00000-of-00002.parquet``), or None.

    Raises:
        CaptError: several files, but not all of them named for a split.
    """
    splits = {path: split_of_file(path, root) for path in sorted(files)}
    if None in splits.values() and len(files) > 1 and set(splits.values()) != {None}:
        odd = next(path for path, split in splits.items() if split is None)
        raise CaptError(
            f"{odd}: other tables beside it are named for splits, this one is not; "
            "choose one with --set data.table=FILE"
        )
    return splits


def split_of_name(path: Path) -> str | None:
    """The split that a file's name gives as a word of its own (``cifar10-train-00000``), or None.

    The first word counts most; further in, words for two splits give none.
    """
    words = re.split(r"[^a-z0-9]+", path.name.split(".")[0].lower())
    found = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    if words[0] in SPLIT_WORDS:
        return found[0]
    return found[0] if len(set(found)) == 1 else None


def split_of_file(path: Path, root: Path) -> str | None:
    """The split that a file's name gives, or else the folder below `root` that it lies in."""
    below = path.relative_to(root).parent
    return split_of_name(path) or (split_of_name(below) if below.name else None)


def table_columns(path: Path) -> list[str]:
    """Names of a table's columns.

    Raises:
        CaptError: not a readable table.
    """
    if path.suffix.lower() in TEXT_ENDINGS:
        return text_columns(path)
    return [str(name) for name in open_table(path).schema.names]


def lists_images(path: Path, data: Data) -> bool:
    """Whether a table has a column of paths and one of labels, by their names or the settings.

    Raises:
        CaptError: not a readable table.
    """
    columns = table_columns(path)
    named = data.image_column or column_named(columns, PATH_COLUMNS)
    return bool(named and (data.label_column or column_named(columns, LABEL_COLUMNS)))


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
    taken, note = choose_label(labels, path)
    return Labels(taken, labels[taken], problems[taken], [note] if note else [])


def row_split(word: object) -> str | None:
    """The split that a cell of a split column names, or None."""
    return SPLIT_WORDS.get(str(word).strip().lower())


def _read(path: Path, root: Path, split: str | None, data: Data, rejects: Rejects) -> _Table:
    columns = table_columns(path)
    names = (
        chosen_column(columns, data.image_column, "data.image_column", path)
        if data.image_column
        else column_named(columns, PATH_COLUMNS)
    )
    if names is None:
        raise CaptError(
            f"{path}: no column {PATH_COLUMNS[0]} (or {', '.join(PATH_COLUMNS[1:5])}, ...); "
            f"{columns_of(columns)}; name it with --set data.image_column=COLUMN, or use no table "
            "with --set data.layout=class_folders"
        )
    candidates = (
        [chosen_column(columns, data.label_column, "data.label_column", path)]
        if data.label_column
        else [name for name in label_columns(columns) if name != names]
    )
    if not candidates:
        raise no_label_column(columns, path)
    splits = column_named(columns, SPLIT_COLUMNS) if split is None else None
    used = [names, *candidates, *([splits] if splits else [])]
    for name in used:
        refuse_twice(columns, name, path)
    cells, numbers, unit = _cells(path, used)
    found = read_labels(dict(zip(candidates, cells[1:], strict=False)), {}, path)
    labels = found.texts
    below = _relative_folder(path, root)
    paths = [
        _relative(_path_text(cell, path, names, f"{unit} {number}"), path, root, below)
        for cell, number in zip(cells[0], numbers, strict=True)
    ]
    words = [row_split(word) for word in cells[-1]] if splits else [split] * len(paths)
    if splits and None in words:
        row = words.index(None)
        raise CaptError(
            f"{path}: {unit} {numbers[row]}: column {splits} holds {shown(cells[-1][row])}, "
            "expected train, val or test"
        )
    for row, problem in found.problems.items():
        where = f"{path}: {unit} {numbers[row]}"
        rejects.add(where, (paths[row], None, "", words[row] or ""), problem, "correct it")
    if found.problems:
        kept = [row for row in range(len(paths)) if row not in found.problems]
        paths, words = [paths[row] for row in kept], [words[row] for row in kept]
        labels, numbers = [labels[row] for row in kept], [numbers[row] for row in kept]
    return _Table(Listing(listing_rows(paths, labels, words), notes=found.notes), numbers, unit)


def _cells(path: Path, names: Sequence[str]) -> tuple[list[list[Any]], Sequence[int], str]:
    """Columns of a table, the number of each row, and what the number counts."""
    if path.suffix.lower() in TEXT_ENDINGS:
        return *read_text_columns(path, names), "line"
    table = open_table(path)
    cells = [table.values(name) for name in names]
    return cells, range(1, len(cells[0]) + 1), "row"


def _path_text(cell: Any, table: Path, column: str, place: str) -> str:
    """A path as a cell holds it.

    Raises:
        CaptError: the column holds something else: images as text, addresses, numbers in lists.
    """
    if isinstance(cell, dict) and set(cell) <= {"bytes", "path"}:
        cell = cell.get("path")
    if cell is None or isinstance(cell, float):
        return ""
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace") if len(cell) < _LONGEST_PATH else cell
    if not isinstance(cell, str | int):
        kind = f"a {type(cell).__name__}, not a path"
    elif _ADDRESS.match(str(cell)):
        kind = f"an address ({shown(cell, 40)}); download the images, and list their paths"
    elif len(str(cell)) > _LONGEST_PATH or _BASE64.fullmatch(str(cell)):
        kind = "the image as text, not image bytes or a path; write base64.b64decode(text) to files"
    else:
        return str(cell)
    raise CaptError(
        f"{table}: {place}: column {shown(column, 40)} holds {kind} (data.image_column names "
        "another column)"
    )


def _relative_folder(path: Path, root: Path) -> str:
    folder = path.parent.relative_to(root).as_posix()
    return "" if folder == "." else f"{folder}/"


def _relative(name: str, table: Path, root: Path, below: str) -> str:
    stripped = name.strip()
    if name != stripped and not os.path.exists(os.path.join(table.parent, name)):
        name = stripped
    if len(name) > 1 and name[0] == name[-1] == '"':  # quoted after a blank
        name = name[1:-1]
    if "\\" in name and not os.path.exists(os.path.join(table.parent, name)):
        name = name.replace("\\", "/")  # a table written on Windows
    if "//" in name or "./" in name:
        name = PurePosixPath(name).as_posix()  # one file, one spelling: it may be listed twice
    if not name.startswith("/"):
        return f"{below}{name}" if name else ""
    for folder in (root, root.resolve()):
        if Path(name).is_relative_to(folder):
            return Path(name).relative_to(folder).as_posix()
    return name


def _split_by_folders(listing: Listing) -> Listing:
    """Splits taken from the paths' first folders, where none are given and all are named for one.

    Hugging Face's folders with ``metadata.csv`` and many published lists are of this kind.
    """
    rows = listing.rows
    if not len(rows) or rows["split"].is_not_null().any():
        return listing
    tops = rows["path"].str.extract(r"^([^/]+)/", 1)
    named = {top: None if top is None else SPLIT_WORDS.get(top.lower()) for top in tops.unique()}
    if None in named.values() or "train" not in named.values() or len(named) < 2:
        return listing
    splits = tops.replace_strict(named, return_dtype=pl.String).alias("split")
    note = f"splits are the first folders of the paths: {', '.join(sorted(map(str, named)))}"
    return replace(listing, rows=rows.with_columns(splits), notes=[*listing.notes, note])


def tables_in(folder: Path, endings: Sequence[str]) -> Iterator[Path]:
    """Tables in a folder, in the order of their names; hidden files are left out."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in endings and not path.name.startswith(".") and path.is_file():
            yield path
