"""Long tables a part at a time: neither their writer nor their reader holds all of one."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import polars as pl

from capt_core.advice import Remedy, run_stage
from capt_core.artifacts import lineage
from capt_core.artifacts.digests import seal
from capt_core.artifacts.files import atomic_path
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.tables import (
    Table,
    check_record,
    file_options,
    key_problem,
    null_problem,
    read_record,
    readable,
    type_problem,
    value_problem,
)
from capt_core.errors import CaptError

BLOCK_ROWS = 8192
"""Images that are worked on at once."""


def spans(count: int, rows: int = BLOCK_ROWS) -> list[range]:
    """The numbers 0 to `count` - 1 in consecutive ranges of at most `rows`, as even as can be.

    A matrix product of one or two rows may round differently from one of many, so no range is
    much shorter than the others.
    """
    parts = -(-count // rows)
    edges = [count * part // parts for part in range(parts + 1)] if parts else []
    return [range(begin, end) for begin, end in pairwise(edges)]


def open_record(
    table: Table, path: Path, expected: Provenance, remedy: str | Remedy
) -> Mapping[str, pl.DataType]:
    """Columns of a file that holds a table; its content is checked but for the values.

    Raises:
        CaptError: as `read_table`, but for nulls, values and keys.
    """
    with readable(path, remedy) as sealed:
        schema, record = pl.read_parquet_schema(path), read_record(path)
    if not sealed:
        record.pop("digest", None)
    check_record(table, path, record, remedy)
    if problem := type_problem(table, pl.DataFrame(schema=schema)):
        raise CaptError(f"{path}: {problem}; {remedy}")
    lineage.admit(path, record, expected, remedy)
    return schema


def read_groups(
    table: Table, path: Path, expected: Provenance, columns: Sequence[str] = ()
) -> Iterator[pl.DataFrame]:
    """Read a table a row group at a time; the file is opened and checked at the call.

    Args:
        table: what the file must hold.
        path: the Parquet file.
        expected: data set and backbone that the reader works with.
        columns: those that are read beside the key; all if none are named.

    Raises:
        CaptError: as `read_table`. Nulls, values and keys are looked at as they are read, keys of
            the whole table behind the last group.
    """
    remedy = run_stage(table.stage, path, expected.dataset)
    schema = open_record(table, path, expected, remedy)
    wanted = [name for name in schema if not columns or name in {*columns, *table.key}]
    return _groups(table, path, wanted, remedy)


def read_columns(table: Table, path: Path, expected: Provenance, *columns: str) -> pl.DataFrame:
    """The key and some further columns of a table, of all its rows.

    Raises:
        CaptError: as `read_groups`.
    """
    return pl.concat(list(read_groups(table, path, expected, columns)), rechunk=True)


def _groups(
    table: Table, path: Path, columns: Sequence[str], remedy: str | Remedy
) -> Iterator[pl.DataFrame]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    scan, start, keys = pl.scan_parquet(path, glob=False).select(columns), 0, list[pl.DataFrame]()
    for size in sizes or [0]:
        frame = scan.slice(start, size).collect()
        start += size
        if problem := null_problem(table, frame) or value_problem(table, frame):
            raise CaptError(f"{path}: {problem}; {remedy}")
        keys.append(frame.select(table.key))
        yield frame
    if problem := key_problem(table, pl.concat(keys)):
        raise CaptError(f"{path}: {problem}; {remedy}")


def write_groups(
    table: Table, blocks: Iterable[pl.DataFrame], path: Path, provenance: Provenance
) -> int:
    """Write blocks of rows as one table; see `table_writer`.

    Args:
        table: what the rows are.
        blocks: of the same columns.
        path: the Parquet file.
        provenance: of the table.

    Returns:
        How many rows they are.

    Raises:
        ValueError: the rows break their own schema (a bug of the stage).
        CaptError: the file cannot be written; whatever making the blocks raises.
    """
    with table_writer(table, path, provenance) as write:
        for block in blocks:
            write(block)
    return write.rows


class TableWriter:
    """Takes blocks of rows of a table that is being written; see `table_writer`.

    Attributes:
        rows: how many it has taken.
    """

    def __init__(self, table: Table, path: Path, options: dict[str, Any]) -> None:
        self._table, self._path, self._options = table, path, options
        self._keys: list[pl.DataFrame] = []
        self._sink: _Sink | None = None
        self.rows = 0

    def __call__(self, block: pl.DataFrame) -> None:
        """Take a block.

        Raises:
            ValueError: its rows break the schema.
            OSError: what was taken before cannot be written; or whatever else writing raises.
        """
        problem = type_problem(self._table, block) or null_problem(self._table, block)
        if problem:
            raise ValueError(f"table {self._table.name}: {problem}")
        if self._sink is None:
            self._sink = _Sink(self._path, block.schema, self._options)
        self._keys.append(block.select(self._table.key))
        self._sink.take(block.select(self._sink.columns))
        self.rows += len(block)

    def close(self) -> None:
        """Wait until what was taken is written, or is known not to be."""
        if self._sink is not None:
            self._sink.close()

    def finish(self) -> None:
        """End the table.

        Raises:
            ValueError: two rows share the key.
            OSError: the table cannot be written; or whatever else writing raises.
        """
        if self._sink is None:
            self(self._table.frame())
            self.close()
        assert self._sink is not None
        self._sink.check()
        if problem := key_problem(self._table, pl.concat(self._keys)):
            raise ValueError(f"table {self._table.name}: {problem}")


@contextmanager
def table_writer(table: Table, path: Path, provenance: Provenance) -> Iterator[TableWriter]:
    """What takes blocks of rows, which are the table when the block of code ends.

    It is written atomically; a file is the same for the same blocks. A table that fits into one row
    group has the bytes that `write_table` gives it. While a block is compressed and written, the
    next one is made.

    Args:
        table: what the rows are; all blocks have the same columns.
        path: the Parquet file.
        provenance: of the table.

    Raises:
        ValueError: the rows break their own schema (a bug of the stage).
        CaptError: the file cannot be written.
    """
    options = file_options(table, provenance) | {"row_group_size": table.group_rows}
    with atomic_path(path) as temporary:
        writer = TableWriter(table, temporary, options)
        try:
            yield writer
        finally:
            writer.close()
        writer.finish()
        seal(temporary)


class _Sink:
    """Writes the blocks it takes, in a thread of its own."""

    def __init__(self, path: Path, schema: pl.Schema, options: dict[str, Any]) -> None:
        self._path, self._schema, self._options = path, schema, options
        self.columns = list(schema)
        self._handed: queue.Queue[pl.DataFrame | None] = queue.Queue(maxsize=2)
        self._failed: list[BaseException] = []
        self._thread = Thread(target=self._write, daemon=True)
        self._thread.start()

    def take(self, block: pl.DataFrame | None) -> None:
        """Hand over a block; None ends the table."""
        while self._thread.is_alive():
            try:
                self._handed.put(block, timeout=1)
            except queue.Full:
                continue
            return
        self.check()

    def close(self) -> None:
        """End the table and wait until it is written."""
        if self._thread.is_alive():
            self.take(None)
        self._thread.join()

    def check(self) -> None:
        """Raise what writing raised."""
        if self._failed:
            raise self._failed[0]

    def _write(self) -> None:
        from polars.io.plugins import register_io_source

        def source(*_: object) -> Iterator[pl.DataFrame]:
            while (block := self._handed.get()) is not None:
                yield block

        try:
            register_io_source(source, schema=self._schema).sink_parquet(
                self._path, engine="streaming", **self._options
            )
        except (Exception, pl.exceptions.PanicException) as error:
            self._failed.append(error)
