"""Parquet tables that hold the images themselves, as Hugging Face data sets do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capt_core.data.parquet_images import (
    IMAGE_COLUMNS,
    image_column,
    open_table,
    read_column,
    row_path,
)
from capt_core.data.readers.listing import SPLIT_WORDS, Listing, listing_rows
from capt_core.data.readers.tables import (
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    column_named,
    file_splits,
)
from capt_core.data.splits import Rejects
from capt_core.errors import CaptError


@dataclass(frozen=True)
class _Columns:
    """The label and split columns of a table, and the label names its metadata gives."""

    label: str
    split: str | None
    names: list[str] | None


def holds_images(path: Path) -> bool:
    """Whether a Parquet file has a column of images (`image` struct of bytes and path, or bytes).

    Raises:
        CaptError: not a readable Parquet file.
    """
    return image_column(open_table(path)) is not None


def read_image_tables(files: Sequence[Path], root: Path, rejects: Rejects) -> Listing:
    """List the rows of image tables; an image's path is ``<file>/<row number>``.

    Labels are text, or numbers with names in the Hugging Face metadata (``ClassLabel``), which
    then also gives the order of the classes. Splits come from the files' names or a column.

    Raises:
        CaptError: not such a table, tables that name their labels differently, or (unless
            quarantined) a label out of range.
    """
    paths: list[str] = []
    labels: list[str | None] = []
    splits: list[str | None] = []
    known: list[str] | None = None
    for position, (path, split) in enumerate(file_splits(files).items()):
        columns = _columns(path)
        if position and columns.names != known:
            raise CaptError(f"{path}: names its labels differently than {sorted(files)[0]}")
        known = columns.names
        values = _values(path, columns.label)
        words = _values(path, columns.split) if columns.split and split is None else None
        prefix = path.relative_to(root).as_posix()
        for row, value in enumerate(values):
            image = row_path(prefix, row)
            word = split if words is None else SPLIT_WORDS.get(str(words[row]).lower())
            if words is not None and word is None:
                raise CaptError(
                    f"{path}: row {row}: split {words[row]!r} is none of train, val, test"
                )
            label = _label(value, known)
            if label is None and value is not None and known is not None and value != -1:
                reason = f"label {value} is out of range: {len(known)} names"
                rejects.add(
                    f"{path}: row {row}",
                    (image, None, str(value), word or ""),
                    reason,
                    "correct it",
                )
                continue
            paths.append(image)
            labels.append(label)
            splits.append(word)
    return Listing(listing_rows(paths, labels, splits), known)


def _columns(path: Path) -> _Columns:
    schema = open_table(path).schema_arrow
    features = _features(schema.metadata or {}, path)
    typed = [
        column
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    ]
    column = column_named(schema.names, LABEL_COLUMNS)
    label = column or (typed[0] if len(typed) == 1 else None)
    if label is None:
        raise CaptError(
            f"{path}: no column {LABEL_COLUMNS[0]} (or {', '.join(LABEL_COLUMNS[1:])}) beside "
            f"{' or '.join(IMAGE_COLUMNS)}; its columns are {', '.join(schema.names)}"
        )
    names = features.get(label, {}).get("names") if label in typed else None
    if isinstance(names, dict):  # older files: {"0": name, ...}
        names = [names[key] for key in sorted(names, key=int)]
    texts = [str(name) for name in names] if isinstance(names, list) else None
    return _Columns(label, column_named(schema.names, SPLIT_COLUMNS), texts)


def _features(metadata: dict[bytes, bytes], path: Path) -> dict[str, Any]:
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features")
        return dict(features or {})
    except (ValueError, AttributeError, TypeError) as error:
        raise CaptError(f"{path}: its Hugging Face metadata is not readable ({error})") from error


def _values(path: Path, column: str) -> list[Any]:
    try:
        values: list[Any] = read_column(open_table(path), column).to_pylist()
    except OSError as error:
        raise CaptError(f"{path}: column {column} is not readable ({error})") from error
    return values


def _label(value: object, names: list[str] | None) -> str | None:
    if value is None or names is None:
        return None if value is None else str(value)
    if isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return str(value) if str(value) in names else None
