"""Images in the rows of Parquet files; their paths are ``<file>/<row number>``."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capt_core.data.decoding import read_file
from capt_core.errors import CaptError, reason

if TYPE_CHECKING:
    import pyarrow.parquet as pq

IMAGE_COLUMNS = ("image", "img", "picture")
# A row group is the least that can be read at once. Data sets are written with about 100 images
# each; keeping a few serves shuffled reading, and one larger than this is refused.
LARGEST_GROUP = 2 * 1024**3
KEPT_BYTES = 256 * 1024**2


def row_path(file: str, row: int) -> str:
    """Path of an image: its row in a file, padded so that paths sort like rows."""
    return f"{file}/{row:08d}"


def in_table(path: Path) -> bool:
    """Whether a path names a row of a Parquet file."""
    return path.parent.suffix == ".parquet" and path.name.isdecimal() and path.parent.is_file()


def open_table(path: Path) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises:
        CaptError: not a readable Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise CaptError(f"{path}: not a readable Parquet file ({reason(error)})") from error


def image_column(table: pq.ParquetFile) -> str | None:
    """The column that holds images: bytes, or a struct with `bytes` and maybe `path`."""
    import pyarrow as pa

    for field in table.schema_arrow:
        inner = field.type
        if pa.types.is_struct(inner) and inner.get_field_index("bytes") >= 0:
            inner = inner.field("bytes").type
        elif field.name not in IMAGE_COLUMNS:
            continue
        if pa.types.is_binary(inner) or pa.types.is_large_binary(inner):
            return str(field.name)
    return None


def read_column(table: pq.ParquetFile, column: str, group: int | None = None) -> Any:
    """One column of a Parquet file, or of one of its row groups.

    Raises:
        OSError: its pages are damaged or of an unknown kind.
    """
    import pyarrow as pa

    try:
        rows = table.read([column]) if group is None else table.read_row_group(group, [column])
    except pa.ArrowException as error:
        raise OSError(reason(error)) from error
    return rows.column(0)


def read_row(path: Path) -> bytes:
    """Bytes of the image in a row; a row that only names a file gives that file's bytes.

    Raises:
        FileNotFoundError: there is no such row, or it holds no image.
        OSError: the file cannot be read.
    """
    value = _READER.value(path.parent, int(path.name))
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None and isinstance(value, dict) and value.get("path"):
        file: Path = path.parent.parent / str(value["path"])
        return read_file(file)
    if content is None:
        raise FileNotFoundError(f"{path}: the row holds no image")
    return bytes(content)


class _RowReader:
    """Reads rows by way of their row groups and keeps the last few groups in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: dict[tuple[Path, int], list[int]] = {}
        self._groups: OrderedDict[tuple[Path, int, int], Any] = OrderedDict()

    def value(self, file: Path, row: int) -> Any:
        stamp = file.stat().st_mtime_ns
        with self._lock:
            starts = self._starts.get((file, stamp))
            if starts is None:
                starts = self._starts[file, stamp] = _group_starts(file)
            group = bisect_right(starts, row) - 1
            if not 0 <= group < len(starts) - 1:
                raise FileNotFoundError(f"{file}: has no row {row}")
            key = (file, stamp, group)
            if key not in self._groups:
                self._groups[key] = _read_group(file, group)
                self._forget()
            self._groups.move_to_end(key)
            column = self._groups[key]
        return column[row - starts[group]].as_py()

    def _forget(self) -> None:
        held = sum(column.nbytes for column in self._groups.values())
        while held > KEPT_BYTES and len(self._groups) > 1:
            held -= self._groups.popitem(last=False)[1].nbytes


def _group_starts(file: Path) -> list[int]:
    metadata = open_table(file).metadata
    sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    return [0, *accumulate(sizes)]


def _read_group(file: Path, group: int) -> Any:
    table = open_table(file)
    column = image_column(table)
    if column is None:
        raise FileNotFoundError(f"{file}: has no column of images")
    size = table.metadata.row_group(group).total_byte_size
    if size > LARGEST_GROUP:
        raise CaptError(
            f"{file}: {size / 1024**3:.1f} GiB in one row group; rewrite it with smaller ones: "
            "pyarrow.parquet.write_table(table, file, row_group_size=100)"
        )
    return read_column(table, column, group)


_READER = _RowReader()
