"""The user's own images as a CSV, JSON-lines or Parquet table lists them."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from capt_core.addresses import is_address
from capt_core.data.column_files import TABLE_ENDINGS, open_table
from capt_core.data.parquet_images import can_hold_images, is_nested
from capt_core.data.readers.columns import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    chosen_column,
    column_named,
    column_names,
    column_setting,
    columns_like_splits,
    columns_of,
    label_columns,
    no_label_column,
    read_labels,
    refuse_twice,
)
from capt_core.data.readers.folder_names import IMAGE_FOLDERS, split_word
from capt_core.data.readers.hub import label_names
from capt_core.data.readers.listing import SPLIT_WORDS, Listing, listing_rows
from capt_core.data.readers.table_files import file_splits, row_split
from capt_core.data.readers.text_tables import TEXT_ENDINGS, read_text_columns, text_columns
from capt_core.data.remote.listed import listed_address, looks_like_address
from capt_core.data.scan import holds_images, is_image_name, spelled_on_disk, subfolders
from capt_core.data.splits import Rejects
from capt_core.errors import CaptError, shown
from capt_core.params import Data
from capt_core.text import name_key

_FIRST = 20  # paths that are looked for
_LONGEST_PATH = 4096  # of Linux
_DATA = re.compile(r"data:", re.I)
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

    first, *others = tables.items()
    for path, table in others:
        if table.listing.labels != first[1].listing.labels:
            raise CaptError(f"{path}: names its labels differently than {first[0]}")
    rows = pl.concat([table.listing.rows for table in tables.values()])
    notes = dict.fromkeys(note for table in tables.values() for note in table.listing.notes)
    return _split_by_folders(Listing(rows, first[1].listing.labels, list(notes), place))


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


def _read(path: Path, root: Path, split: str | None, data: Data, rejects: Rejects) -> _Table:
    columns = table_columns(path)
    names = (
        chosen_column(columns, data.image_column, "data.image_column", path)
        if data.image_column
        else column_named(columns, PATH_COLUMNS)
    )
    if names is None:
        raise _no_path_column(path, columns)
    candidates = (
        [chosen_column(columns, data.label_column, "data.label_column", path)]
        if data.label_column
        else [name for name in label_columns(columns) if name != names]
    )
    if not candidates:
        raise no_label_column(columns, path)
    splits = column_named(columns, SPLIT_COLUMNS) if split is None else None
    like = [] if splits or split else columns_like_splits(columns)
    split_notes = [f"{column_names(like)}: not read; splits are read from a column split"]
    split_notes = split_notes if like else []
    used = [names, *candidates, *([splits] if splits else [])]
    for name in used:
        refuse_twice(columns, name, path)
    cells, numbers, unit = read_cells(path, used)
    table = open_table(path) if path.suffix.lower() in TABLE_ENDINGS else None
    named, named_notes = label_names(path, root, candidates, table)
    found = read_labels(dict(zip(candidates, cells[1:], strict=False)), named, path)
    labels = found.texts
    texts = [
        _path_text(cell, path, names, f"{unit} {number}")
        for cell, number in zip(cells[0], numbers, strict=True)
    ]
    own = _relative_folder(path, root)
    below = _folder_of_paths(texts, path, root, own, split)
    below_notes = [f"paths in {path} are relative to {root / below}"] if below != own else []
    # Before splits are drawn: a file listed in two forms of its letters is one file.
    known: dict[str, dict[str, str]] = {}
    paths = [spelled_on_disk(root, _relative(text, root, below), known) for text in texts]
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
    listing = Listing(
        listing_rows(paths, labels, words),
        named.get(found.column),
        [*below_notes, *named_notes, *found.notes, *split_notes],
    )
    return _Table(listing, numbers, unit)


def _no_path_column(path: Path, columns: Sequence[str]) -> CaptError:
    table = open_table(path) if path.suffix.lower() in TABLE_ENDINGS else None
    images = [name for name in columns if table is not None and can_hold_images(table, name)]
    if table is not None and not images and is_nested(table):
        return CaptError(
            f"{path}: {columns_of(columns)}, with others inside; take those out: python -c "
            '"import sys,pyarrow.parquet as q;f=sys.argv[1];t=q.read_table(f).flatten();'
            "q.write_table(t.rename_columns([c.split('.')[-1] for c in t.column_names]),f)\" "
            f"{shlex.quote(str(path))}"
        )
    if path.suffix.lower() in TEXT_ENDINGS:
        first = [next(iter(cells), None) for cells in read_text_columns(path, columns)[0]]
        images = [
            name for name, cell in zip(columns, first, strict=True) if is_image_name(str(cell))
        ]
    return CaptError(
        f"{path}: no column {PATH_COLUMNS[0]} (or {', '.join(PATH_COLUMNS[1:5])}, ...); "
        f"{columns_of(columns)}; name it with "
        f"{column_setting('image_column', images[0] if images else 'COLUMN')}"
        + (
            ", or use no table with --set data.layout=class_folders"
            if holds_images(path.parent)
            else ""
        )
    )


def read_cells(path: Path, names: Sequence[str]) -> tuple[list[list[Any]], Sequence[int], str]:
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
        kind = f"a {type(cell).__name__}, not a path; write the images to files, and list those"
    elif _DATA.match(str(cell)):
        kind = f"an image as text ({shown(cell, 40)}); write the images to files, and list those"
    elif looks_like_address(cell):
        try:
            return listed_address(str(cell), table)
        except CaptError as error:
            raise CaptError(f"{table}: {place}: {error}") from error
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


def _folder_of_paths(
    texts: Sequence[str], path: Path, root: Path, own: str, split: str | None
) -> str:
    """The folder that a table's paths are relative to, itself relative to the root.

    It is the table's own; or, where none of the first paths is there, the only one of others that
    has some: the root, and the folders directly in it or beside the table. Of several, one named
    for images or for the table's split is taken.
    """
    first = [text for text in texts[:_FIRST] if text.strip()]

    def holds(below: str) -> bool:
        return any(os.path.exists(root / _relative(text, root, below)) for text in first)

    if not first or holds(own):
        return own
    others = ["", *(f"{name}/" for name in subfolders(root))]
    others += [f"{own}{name}/" for name in subfolders(path.parent)]
    found = [below for below in dict.fromkeys(others) if below != own and holds(below)]
    if len(found) > 1:
        named = [Path(below).name for below in found]
        found = [
            below
            for below, name in zip(found, named, strict=True)
            if name_key(name) in IMAGE_FOLDERS or (split and (split_word(name) or "x")[0] == split)
        ]
    return found[0] if len(found) == 1 else own


def _relative(name: str, root: Path, below: str) -> str:
    if is_address(name):
        return name
    base = os.path.join(root, below)
    stripped = name.strip()
    if name != stripped and not os.path.exists(os.path.join(base, name)):
        name = stripped
    if len(name) > 1 and name[0] == name[-1] == '"':  # quoted after a blank
        name = name[1:-1]
    if "\\" in name and not os.path.exists(os.path.join(base, name)):
        name = name.replace("\\", "/")  # a table written on Windows
    if "//" in name or "./" in name:
        name = PurePosixPath(name).as_posix()  # one file, one spelling: it may be listed twice
    if not name.startswith("/"):
        # ../images/a.png from a folder beside it; what leads out of the root keeps its dots.
        name = f"{below}{name}" if name else ""
        return posixpath.normpath(name) if "../" in name else name
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
