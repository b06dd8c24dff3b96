"""Where the numbers of a column of vectors lie in a Parquet file.

An uncompressed, PLAIN encoded column without nulls holds its float32 values one after the other,
page by page, behind levels that only say that no value is missing. Reading them from where they
lie costs a tenth of decoding the levels, and lets single rows be read. Whatever else a file holds
is left to pyarrow. The format of pages: Apache Parquet, ``parquet.thrift`` (`PageHeader`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_HEADER = 4096  # bytes that hold a page's header, whatever statistics are in it
_FLOAT = 4


@dataclass(frozen=True)
class VectorPages:
    """Places of N vectors of d float32 values in a file.

    Attributes:
        first: row that each page begins with, ascending, and N at the end, [pages + 1].
        offset: byte of the file at which the page's first vector begins, [pages].
        width: d.
    """

    first: np.ndarray
    offset: np.ndarray
    width: int


def find_pages(path: Path, column: str) -> VectorPages | None:
    """Places of a column of vectors; None where they do not lie one after the other.

    Args:
        path: a Parquet file.
        column: of fixed-size lists of float32.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no Parquet file (`pyarrow.lib.ArrowInvalid`), or a header is damaged.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        width = int(file.schema_arrow.field(column).type.list_size)
        metadata = file.metadata
        chunks = [
            each
            for group in range(metadata.num_row_groups)
            for each in (metadata.row_group(group).column(i) for i in range(metadata.num_columns))
            if each.path_in_schema.split(".")[0] == column
        ]
        rows = metadata.num_rows
    first, offset = [0], list[int]()
    with path.open("rb") as stream:
        for chunk in chunks:
            plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
            if not plain or chunk.physical_type != "FLOAT" or not width:
                return None
            position = chunk.data_page_offset
            end = position + chunk.total_compressed_size
            while position < end:
                found = _page(stream, position, width)
                if found is None:
                    return None
                position, start, vectors = found
                offset.append(start)
                first.append(first[-1] + vectors)
    if first[-1] != rows:
        return None
    return VectorPages(np.array(first), np.array(offset, dtype=np.int64), width)


def _page(stream: BinaryIO, position: int, width: int) -> tuple[int, int, int] | None:
    """End of a page, where its values begin, and how many vectors they are; None if not plain."""
    stream.seek(position)
    header = _Compact(stream.read(_HEADER))
    fields = header.struct()
    data = fields.get(5)
    if fields.get(1) != 0 or not isinstance(data, dict) or data.get(2) != 0:
        return None  # no data page of version 1, or not PLAIN
    size, values, body = fields[2], data[1], position + header.place
    if fields.get(3) != size or values % width:
        return None
    # Repetition and definition levels, each behind its length in bytes; no values are missing
    # exactly if what is left holds as many as there are levels.
    levels = 0
    for _ in range(2):
        stream.seek(body + levels)
        levels += 4 + int.from_bytes(stream.read(4), "little")
    if levels + values * _FLOAT != size:
        return None
    return body + size, body + levels, values // width


class _Compact:
    """Reader of Thrift's compact protocol: structs as dictionaries from field number to value."""

    def __init__(self, data: bytes) -> None:
        self._data, self.place = data, 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            step = head >> 4
            number = number + step if step else self._signed()
            fields[number] = self._value(head & 0x0F)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):  # true and false, in a struct
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._unsigned())
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4
            count = self._unsigned() if count == 15 else count
            return [self._value(head & 0x0F) for _ in range(count)]
        if kind == 12:
            return self.struct()
        raise ValueError("damaged page header")

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, count: int) -> bytes:
        found = self._data[self.place : self.place + count]
        if len(found) < count:
            raise ValueError("damaged page header")
        self.place += count
        return found

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
