"""Tables too long for memory: written a frame at a time, as one Parquet file of row groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import polars as pl

from capt_core.artifacts.digests import seal
from capt_core.artifacts.files import atomic_path
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.tables import Table, file_options, schema_problem
from capt_core.errors import CaptError

ROW_GROUP = 2**15
"""Rows of a group: 64 MB of 512 float32 numbers each."""


def write_row_groups(
    table: Table,
    frames: Iterable[pl.DataFrame],
    schema: Mapping[str, pl.DataType],
    path: Path,
    provenance: Provenance,
) -> None:
    """Write frames one after the other as a table, atomically; a few are in memory at a time.

    The file is cut into groups of `ROW_GROUP` rows, however long the frames are. One of a single
    group has the bytes that `write_table` gives it.

    Args:
        table: what the frames are checked against; keys only within each frame.
        frames: parts of the table, in order.
        schema: columns and types of every frame.
        path: of the file.
        provenance: of the table.

    Raises:
        ValueError: a frame breaks the table's schema (a bug of the stage).
        CaptError: raised by `frames`, or the file cannot be written.
    """
    from polars.io.plugins import register_io_source

    raised = list[CaptError]()

    def checked() -> Iterator[pl.DataFrame]:
        try:
            for frame in frames:
                if problem := schema_problem(table, frame):
                    raise ValueError(f"table {table.name}: {problem}")
                yield frame
        except CaptError as error:
            raised.append(error)  # Polars would wrap it
            raise

    def source(*_: object) -> Iterator[pl.DataFrame]:
        return checked()

    with atomic_path(path) as temporary:
        try:
            register_io_source(source, schema=dict(schema)).sink_parquet(
                temporary, row_group_size=ROW_GROUP, **file_options(table, provenance)
            )
        except pl.exceptions.PolarsError:
            if raised:
                raise raised[0] from None
            raise
        seal(temporary)
