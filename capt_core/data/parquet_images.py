"""Images in the rows of Parquet or Arrow files.

The path of such an image is ``<file>/<row number>``, or ``<file>/<column>/<row number>`` where a
file has several columns of images.
"""

from __future__ import annotations

import json
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from capt_core.errors import CaptError, reason, shown

TABLE_ENDINGS = (".parquet", ".arrow")
IMAGE_COLUMNS = ("image", "img", "picture", "photo", "image_bytes", "jpg", "jpeg", "png", "webp")
# A row group is the least that can be read at once. Data sets are written with about 100 images
# each; keeping a few serves shuffled reading, and one larger than this is refused.
LARGEST_GROUP = 2 * 1024**3
KEPT_BYTES = 256 * 1024**2
_LFS = b"version https://git-lfs.github.com"
_OTHER_MEDIA = ("Audio", "Video", "Pdf")


class Table(Protocol):
    """An opened table of columns, read in groups of rows."""

    path: Path
    schema: Any

    def sizes(self) -> list[int]:
        """Rows of each group."""
        ...

    def values(self, column: str) -> list[Any]:
        """All cells of a column as Python values."""
        ...

    def group(self, index: int, column: str) -> Any:
        """A column of one group, as an Arrow array."""
        ...

    def without_bytes(self, column: str) -> bool:
        """Whether the file itself says that no row of a column of images holds bytes."""
        ...


def row_path(file: str, row: int, column: str | None = None) -> str:
    """Path of an image: its row in a file, padded so that paths sort like rows."""
    return f"{file}/{row:08d}" if column is None else f"{file}/{column}/{row:08d}"


def in_table(path: Path) -> bool:
    """Whether a path names a row of a Parquet or Arrow file."""
    return _place(path) is not None


def open_table(path: Path) -> Table:
    """Open a Parquet or Arrow file, whichever its ending says.

    Raises:
        CaptError: not a readable file of this kind.
    """
    import pyarrow as pa

    kind = "Arrow" if path.suffix.lower() == ".arrow" else "Parquet"
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS))
        if start == _LFS:
            raise CaptError(f"{path}: a Git LFS pointer, not the table; run: git lfs pull")
        table: Table = _Arrow(path, start) if kind == "Arrow" else _Parquet(path)
        # Damaged names and sizes show when they are asked for.
        table.schema.names, table.sizes()
        return table
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.strerror:
            raise CaptError(
                f"{path}: cannot be read ({error.strerror}); check its permissions"
            ) from error
        raise CaptError(f"{path}: not a readable {kind} file ({reason(error)})") from error


def features(table: Table) -> dict[str, Any]:
    """The types that Hugging Face's metadata gives a table's columns; empty without it.

    Raises:
        CaptError: the metadata is damaged.
    """
    try:
        stated = (table.schema.metadata or {}).get(b"huggingface", b"{}")
        return dict(json.loads(stated).get("info", {}).get("features") or {})
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CaptError(
            f"{table.path}: its Hugging Face metadata is not readable ({reason(error)})"
        ) from error


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
        return (file.parent / named).read_bytes()
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


class _Parquet:
    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self._file = pq.ParquetFile(path)
        self.schema = self._file.schema_arrow

    def sizes(self) -> list[int]:
        metadata = self._file.metadata
        return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]

    def values(self, column: str) -> list[Any]:
        return _cells(self.path, column, lambda: self._file.read([column]).column(0))

    def group(self, index: int, column: str) -> Any:
        size = self._file.metadata.row_group(index).total_byte_size
        if size > LARGEST_GROUP:
            raise CaptError(
                f"{self.path}: {size / 1024**3:.1f} GiB in one row group; rewrite it with smaller "
                "ones: pyarrow.parquet.write_table(table, file, row_group_size=100)"
            )
        return _checked(self._file.read_row_group(index, [column]).column(0))

    def without_bytes(self, column: str) -> bool:
        metadata = self._file.metadata
        name = f"{column}.bytes"
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            chunks = [group.column(place) for place in range(group.num_columns)]
            chunk = next((chunk for chunk in chunks if chunk.path_in_schema == name), None)
            if chunk is None or chunk.statistics is None or not chunk.statistics.has_null_count:
                return False
            if chunk.statistics.null_count < group.num_rows:
                return False
        return bool(metadata.num_rows)


class _Arrow:
    """An Arrow file, a stream as Hugging Face's `save_to_disk` writes it or with random access."""

    def __init__(self, path: Path, start: bytes) -> None:
        import pyarrow as pa

        self.path = path
        source = pa.memory_map(str(path))
        if start.startswith(b"ARROW1"):
            reader = pa.ipc.open_file(source)
            self._batches = [reader.get_batch(at) for at in range(reader.num_record_batches)]
        else:
            reader = pa.ipc.open_stream(source)
            self._batches = list(reader)
        self.schema = reader.schema

    def sizes(self) -> list[int]:
        return [batch.num_rows for batch in self._batches]

    def values(self, column: str) -> list[Any]:
        def read() -> Any:
            import pyarrow as pa

            place = self.schema.get_field_index(column)
            return pa.chunked_array(
                [batch.column(place) for batch in self._batches], self.schema.field(place).type
            )

        return _cells(self.path, column, read)

    def group(self, index: int, column: str) -> Any:
        return _checked(self._batches[index].column(self.schema.get_field_index(column)))

    def without_bytes(self, column: str) -> bool:
        import pyarrow as pa

        place = self.schema.get_field_index(column)
        if not pa.types.is_struct(self.schema.field(place).type):
            return False
        arrays = [_checked(batch.column(place)).field("bytes") for batch in self._batches]
        return bool(arrays) and all(array.null_count == len(array) for array in arrays)


def _cells(path: Path, column: str, read: Any) -> list[Any]:
    """Cells of a column.

    Raises:
        CaptError: its pages are damaged or of an unknown kind.
    """
    import pyarrow as pa

    try:
        values: list[Any] = _checked(read()).to_pylist()
    except (OSError, ValueError, ArithmeticError, pa.ArrowException) as error:
        raise CaptError(
            f"{path}: column {shown(column, 40)} is not readable ({reason(error)})"
        ) from error
    return values


def _checked(array: Any) -> Any:
    """Refuse offsets that lead out of a damaged file's buffers."""
    array.validate(full=True)
    return array


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
