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
_GAP = 8  # rows between two wanted ones that are read and dropped rather than skipped
_SPAN = 2048  # rows that are read at once where some of them are dropped


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
        page = np.searchsorted(pages.first, ids, side="right") - 1
        places = pages.offset[page] + (ids - pages.first[page]) * bytes_of_row
        with self._path.open("rb", buffering=0) as stream:
            for part, gaps in _runs(ids, page):
                place = int(places[part.start])
                if gaps:
                    local = ids[part] - ids[part.start]
                    rows = np.empty((int(local[-1]) + 1, self.width), dtype=_FLOAT)
                    _read(stream.fileno(), rows, place)
                    # The places are within bounds, and unlike this mode the others copy twice.
                    np.take(rows, local, axis=0, out=out[part], mode="clip")
                else:
                    _read(stream.fileno(), out[part], place)

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


def _runs(ids: np.ndarray, page: np.ndarray) -> Iterator[tuple[slice, bool]]:
    """Ascending ids in parts that are read at once, and whether rows of one are left out or double.

    Args:
        ids: rows, [n].
        page: that each of them is in, [n].
    """
    if not len(ids):
        return
    step = np.diff(ids)
    apart = (step > _GAP) | (np.diff(page) > 0) | (np.diff(ids // _SPAN) > 0)
    edges = np.array([0, *(np.flatnonzero(apart) + 1), len(ids)])
    uneven = np.concatenate([[0], (step != 1).cumsum()])
    gaps = uneven[edges[1:] - 1] > uneven[edges[:-1]]
    for (begin, end), gap in zip(pairwise(edges.tolist()), gaps.tolist(), strict=True):
        yield slice(begin, end), gap


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
