"""Images in the rows of Parquet or Arrow files.

The path of such an image is ``<file>/<row number>``, or ``<file>/<column>/<row number>`` where a
file has several columns of images.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Any

from capt_core.data.column_files import TABLE_ENDINGS, Table, features, open_table
from capt_core.data.decoding import read_file
from capt_core.errors import CaptError, reason, shown

IMAGE_COLUMNS = ("image", "img", "picture", "photo", "image_bytes", "jpg", "jpeg", "png", "webp")
# A few groups are kept, so that shuffled reading does not read each of them again and again.
KEPT_BYTES = 256 * 1024**2
_OTHER_MEDIA = ("Audio", "Video", "Pdf")


def row_path(file: str, row: int, column: str | None = None) -> str:
    """Path of an image: its row in a file, padded so that paths sort like rows."""
    return f"{file}/{row:08d}" if column is None else f"{file}/{column}/{row:08d}"


def in_table(path: Path) -> bool:
    """Whether a path names a row of a Parquet or Arrow file."""
    return _place(path) is not None


def table_file(path: Path) -> Path | None:
    """The Parquet or Arrow file that a row's path names; None for other paths."""
    place = _place(path)
    return None if place is None else place[0]


def image_columns(table: Table) -> list[str]:
    """Columns that hold images: bytes named for it, or a struct with `bytes` and maybe `path`."""
    found = []
    types = features(table)
    for field in table.schema:
        kind = _plain_type(field.type)
        declared = types.get(field.name)
        if isinstance(declared, dict) and declared.get("_type") in _OTHER_MEDIA:
            continue
        if _is_binary(kind):
            if field.name.lower() in IMAGE_COLUMNS:
                found.append(str(field.name))
        elif can_hold_images(table, str(field.name)):
            found.append(str(field.name))
    return found


def can_hold_images(table: Table, column: str) -> bool:
    """Whether a column holds bytes, or structs with `bytes`."""
    import pyarrow as pa

    index = table.schema.get_field_index(column)
    kind = _plain_type(table.schema.field(index).type) if index >= 0 else pa.null()
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = _plain_type(kind.field("bytes").type)
    return _is_binary(kind)


def is_nested(table: Table) -> bool:
    """Whether columns hold other columns."""
    import pyarrow as pa

    return any(pa.types.is_struct(field.type) for field in table.schema)


def holds_images(path: Path, column: str | None = None) -> bool:
    """Whether a Parquet or Arrow file holds images, not only the paths of some.

    Args:
        path: of the file.
        column: of the images, if it is known.

    Raises:
        CaptError: not a readable file of this kind.
    """
    import pyarrow as pa

    table = open_table(path)
    found = image_columns(table)
    if column is not None:
        found = [column] if can_hold_images(table, column) else []
    try:
        return any(not table.without_bytes(name) for name in found)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CaptError(f"{path}: its columns are not readable ({reason(error)})") from error


def read_row(path: Path) -> bytes:
    """Bytes of the image in a row; a row that only names a file gives that file's bytes.

    Raises:
        FileNotFoundError: there is no such row, or it holds no image.
        OSError: the file cannot be read, or the row names one outside the table's folder.
    """
    place = _place(path)
    if place is None:
        raise FileNotFoundError(f"{path}: no row of a table")
    file, column = place
    value = _READER.value(file, column, int(path.name))
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None and isinstance(value, dict) and value.get("path"):
        named = str(value["path"])
        if named.startswith("/") or ".." in named.split("/") or "\0" in named:
            raise OSError(f"holds no bytes, and names a file elsewhere: {shown(named)}")
        return read_file(file.parent / named)
    if content is None:
        raise FileNotFoundError(f"{path}: the row holds no image")
    return bytes(content)


def _place(path: Path) -> tuple[Path, str | None] | None:
    """The file and column (None: its only one) of a row's path."""
    if not (path.name.isascii() and path.name.isdecimal()):
        return None
    for file, column in ((path.parent, None), (path.parent.parent, path.parent.name)):
        if file.suffix.lower() in TABLE_ENDINGS and os.path.isfile(file):
            return file, column
    return None


def _plain_type(kind: Any) -> Any:
    """A column's type without its encoding."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in kinds)


class _RowReader:
    """Reads rows by way of their row groups and keeps the last few groups in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: dict[tuple[Path, int], list[int]] = {}
        self._groups: OrderedDict[tuple[Path, int, str | None, int], Any] = OrderedDict()

    def value(self, file: Path, column: str | None, row: int) -> Any:
        stamp = file.stat().st_mtime_ns
        with self._lock:
            starts = self._starts.get((file, stamp))
            if starts is None:
                starts = self._starts[file, stamp] = [0, *accumulate(open_table(file).sizes())]
            group = bisect_right(starts, row) - 1
            if not 0 <= group < len(starts) - 1:
                raise FileNotFoundError(f"{file}: has no row {row}")
            key = (file, stamp, column, group)
            if key not in self._groups:
                self._groups[key] = _read_group(file, column, group)
                self._forget()
            self._groups.move_to_end(key)
            cells = self._groups[key]
        return cells[row - starts[group]].as_py()

    def _forget(self) -> None:
        held = sum(column.nbytes for column in self._groups.values())
        while held > KEPT_BYTES and len(self._groups) > 1:
            held -= self._groups.popitem(last=False)[1].nbytes


def _read_group(file: Path, column: str | None, group: int) -> Any:
    """A column of images in one group of rows.

    Raises:
        FileNotFoundError: there is no such column of images.
        OSError: the group is damaged.
        CaptError: it is too large to read.
    """
    import pyarrow as pa

    table = open_table(file)
    if column is None:
        column = next(iter(image_columns(table)), None)
    if column is None or not can_hold_images(table, column):
        raise FileNotFoundError(f"{file}: has no such column of images")
    try:
        return table.group(group, column)
    except (ValueError, pa.ArrowException) as error:
        raise OSError(reason(error)) from error


_READER = _RowReader()
