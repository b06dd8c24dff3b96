"""Vectors of a Parquet table as they lie on disk, read a few rows at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from capt_core.artifacts.parquet_pages import VectorPages, find_pages

_FLOAT = np.dtype("<f4")
_DENSE = 8  # a span of a page is read whole if at least one of so many of its rows is wanted


class StoredVectors:
    """The N vectors of width d in a column of a Parquet file; nothing of them is held.

    Args:
        path: the file.
        column: of fixed-size lists of float32, without nulls.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no Parquet file.
    """

    def __init__(self, path: Path, column: str) -> None:
        import pyarrow.parquet as pq

        self._path, self._column = path, column
        with pq.ParquetFile(path) as file:
            self.width = int(file.schema_arrow.field(column).type.list_size)
            sizes = [
                file.metadata.row_group(group).num_rows
                for group in range(file.metadata.num_row_groups)
            ]
        self.group_starts = np.cumsum([0, *sizes])
        """Row that each row group begins with, and N at the end."""

    def __len__(self) -> int:
        return int(self.group_starts[-1])

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Vectors [n, d] of rows `ids` [n], in their order."""
        ids = np.asarray(ids, dtype=np.int64)
        if len(ids) and not (ids.min() >= 0 and ids.max() < len(self)):
            raise IndexError(f"row out of range 0 to {len(self) - 1}")
        found = np.empty((len(ids), self.width), dtype=_FLOAT)
        if np.all(ids[1:] >= ids[:-1]):
            self._fill(found, ids)
        else:
            order = ids.argsort(kind="stable")
            ordered = np.empty_like(found)
            self._fill(ordered, ids[order])
            found[order] = ordered
        return found

    def _fill(self, out: np.ndarray, ids: np.ndarray) -> None:
        """Write the vectors of ascending rows into `out`."""
        pages = self._pages
        if pages is None:
            for group, part in _parts(ids, self.group_starts):
                out[part] = self._group(group)[ids[part] - self.group_starts[group]]
            return
        bytes_of_row = self.width * _FLOAT.itemsize
        with self._path.open("rb", buffering=0) as stream:
            for page, part in _parts(ids, pages.first):
                local = ids[part] - pages.first[page]
                low, span = int(local[0]), int(local[-1] - local[0]) + 1
                start = int(pages.offset[page]) + low * bytes_of_row
                if span == len(local):
                    _read(stream.fileno(), out[part], start)
                elif span <= len(local) * _DENSE:
                    whole = np.empty((span, self.width), dtype=_FLOAT)
                    _read(stream.fileno(), whole, start)
                    out[part] = whole[local - low]
                else:
                    for place, row in zip(range(part.start, part.stop), local, strict=True):
                        offset = start + int(row - low) * bytes_of_row
                        _read(stream.fileno(), out[place : place + 1], offset)

    @cached_property
    def _pages(self) -> VectorPages | None:
        return find_pages(self._path, self._column)

    def _group(self, group: int) -> np.ndarray:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._path) as file:
            column = file.read_row_group(group, [self._column], use_threads=False).column(0)
        flat: np.ndarray = column.combine_chunks().flatten().to_numpy()
        return flat.reshape(-1, self.width)


def _parts(ids: np.ndarray, starts: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Numbers of the parts, which begin at `starts`, that ascending ids lie in, with their ids."""
    if not len(ids):
        return
    number = np.searchsorted(starts, ids, side="right") - 1
    edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(ids)]
    for begin, end in pairwise(edges):
        yield int(number[begin]), slice(begin, end)


def _read(descriptor: int, out: np.ndarray, offset: int) -> None:
    """Fill a contiguous array from a file.

    Raises:
        OSError: the file ends before.
    """
    view = out.data.cast("B")
    while view:
        count = os.preadv(descriptor, [view], offset)
        if not count:
            raise OSError("the file ends within a page")
        view, offset = view[count:], offset + count
