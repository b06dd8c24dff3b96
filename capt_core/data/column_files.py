"""Parquet and Arrow files: their columns, read whole or in groups of rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from capt_core.errors import CaptError, reason, shown
from capt_core.text_file import NO_CHARACTERS, holds_no_characters

TABLE_ENDINGS = (".parquet", ".arrow")
# A row group is the least that can be read at once. Data sets are written with about 100 images
# each, and one larger than this is refused.
LARGEST_GROUP = 2 * 1024**3
_LFS = b"version https://git-lfs.github.com"


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
        stated = (table.schema.metadata or {}).get(b"huggingface", b"{}").decode()
        document = json.loads(stated)
        if holds_no_characters(stated, document):
            raise ValueError(NO_CHARACTERS)
        return dict(document.get("info", {}).get("features") or {})
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CaptError(
            f"{table.path}: its Hugging Face metadata is not readable ({reason(error)})"
        ) from error


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


def _cells(path: Path, column: str, read: Callable[[], Any]) -> list[Any]:
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
