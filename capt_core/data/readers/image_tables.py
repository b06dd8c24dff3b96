"""Parquet and Arrow tables that hold the images themselves, as Hugging Face data sets do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capt_core.data.column_files import Table, open_table
from capt_core.data.parquet_images import IMAGE_COLUMNS, can_hold_images, image_columns, row_path
from capt_core.data.readers.columns import (
    SPLIT_COLUMNS,
    chosen_column,
    column_named,
    column_names,
    column_setting,
    columns_of,
    label_columns,
    no_label_column,
    read_labels,
    refuse_twice,
)
from capt_core.data.readers.hub import class_labels, label_names
from capt_core.data.readers.listing import Listing, listing_rows
from capt_core.data.readers.table_files import file_splits, row_split
from capt_core.data.splits import Rejects
from capt_core.errors import CaptError, shown
from capt_core.params import Data


@dataclass(frozen=True)
class _Columns:
    """A table's columns.

    Attributes:
        image: of the images; None: its only column of images.
        labels: columns that may hold the labels, each with the names of its numbers or None.
        split: of the splits, or None.
        notes: where names come from, if not from the file itself.
    """

    image: str | None
    labels: dict[str, list[str] | None]
    split: str | None
    notes: list[str]


def read_image_tables(files: Sequence[Path], root: Path, data: Data, rejects: Rejects) -> Listing:
    """List the rows of image tables; an image's path is ``<file>/<row number>``.

    Labels are text, or numbers with names in the Hugging Face metadata (``ClassLabel``), which
    then also gives the order of the classes. Splits come from the files' names or a column.

    Raises:
        CaptError: not such a table, several columns that may be meant, tables that name their
            labels differently, or (unless quarantined) a label out of range.
    """
    paths: list[str] = []
    labels: list[str | None] = []
    splits: list[str | None] = []
    notes: dict[str, None] = {}
    known: list[str] | None = None
    for position, (path, split) in enumerate(file_splits(files, root).items()):
        table = open_table(path)
        columns = _columns(table, root, data)
        cells = {name: table.values(name) for name in columns.labels}
        found = read_labels(cells, columns.labels, path)
        names = columns.labels[found.column]
        if position and names != known:
            raise CaptError(f"{path}: names its labels differently than {sorted(files)[0]}")
        known = names
        notes.update(dict.fromkeys([*columns.notes, *found.notes]))
        words = table.values(columns.split) if columns.split and split is None else None
        prefix = path.relative_to(root).as_posix()
        for row, label in enumerate(found.texts):
            image = row_path(prefix, row, columns.image)
            word = split if words is None else row_split(words[row])
            if words is not None and word is None:
                raise CaptError(
                    f"{path}: row {row}: column {columns.split} holds {shown(words[row])}, "
                    "expected train, val or test"
                )
            problem = found.problems.get(row)
            if problem:
                value = shown(cells[found.column][row])
                entry = (image, None, value, word or "")
                rejects.add(f"{path}: row {row}", entry, problem, "correct it")
                continue
            paths.append(image)
            labels.append(label)
            splits.append(word)
    rows = listing_rows(paths, labels, splits)
    return Listing(rows, known, list(notes), lambda row: str(root / paths[row]))


def _columns(table: Table, root: Path, data: Data) -> _Columns:
    path, columns = table.path, [str(name) for name in table.schema.names]
    images = image_columns(table)
    image = None
    if data.image_column:
        image = chosen_column(columns, data.image_column, "data.image_column", path)
        if not can_hold_images(table, image):
            kind = str(table.schema.field(image).type)[:40]
            raise CaptError(
                f"{path}: column {shown(image, 40)} holds {kind}, not the bytes of "
                "images; choose another with --set data.image_column=COLUMN"
            )
        image = None if images == [image] else image
    elif len(images) > 1:
        raise CaptError(
            f"{path}: columns {column_names(images)} hold images; choose one with "
            f"{column_setting('image_column', images[0])}"
        )
    elif not images:
        raise CaptError(
            f"{path}: no column of images ({', '.join(IMAGE_COLUMNS[:3])}, ...) in bytes; "
            f"{columns_of(columns)}; name it with --set data.image_column=COLUMN"
        )
    declared = class_labels(table)
    candidates = label_columns(columns, list(declared))
    if data.label_column:
        candidates = [chosen_column(columns, data.label_column, "data.label_column", path)]
    elif len(declared) > 1 and not set(candidates) - set(declared):
        _refuse_several(path, candidates, columns)
    candidates = [name for name in candidates if name not in images]
    if not candidates:
        raise no_label_column(columns, path)
    named, notes = label_names(path, root, candidates, table)
    labels = {name: named.get(name) for name in candidates}
    split = column_named(columns, SPLIT_COLUMNS)
    for name in (*candidates, *([split] if split else [])):
        refuse_twice(columns, name, path)
    return _Columns(image, labels, split, notes)


def _refuse_several(path: Path, declared: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse several columns declared as labels, none of which has one of the usual names."""
    if column_named(columns, ["label"]) is None:
        raise CaptError(
            f"{path}: columns {column_names(declared)} hold labels; choose one with "
            f"{column_setting('label_column', declared[0])}"
        )
