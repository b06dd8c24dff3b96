"""Parquet tables with a stated schema, checked on write and on read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from capt_core.advice import Remedy, run_stage
from capt_core.artifacts import lineage
from capt_core.artifacts.digests import PLACEHOLDER, is_intact, seal
from capt_core.artifacts.files import atomic_path, check_file, unreadable
from capt_core.artifacts.provenance import METADATA_KEY, Provenance, parse_record
from capt_core.errors import CaptError, shown

UNIT_LENGTH = "unit length"
"""Unit of a column of vectors that all have length 1."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: the column's name.
        kind: Polars type. A list type stands for lists of any length; ``pl.Array`` of width 0
            stands for vectors of any width.
        meaning: what a value says, for readers of the table.
        unit: what a value is counted or measured in; empty where there is no unit.
        nullable: whether it may hold nulls.
        optional: whether a table may lack it.
    """

    name: str
    kind: pl.DataType
    meaning: str
    _: KW_ONLY
    unit: str = ""
    nullable: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """What one kind of Parquet table holds; ``artifacts/README.md`` is written from it.

    Attributes:
        name: the table's name, recorded in the file.
        stage: the stage that writes it, named in errors.
        path: the file below the artifacts folder; parts in angle brackets vary.
        description: one sentence, "One row per ...".
        declared: the columns, in order.
        key: columns that together identify a row.
        open: whether further Float64 columns, nulls included, may follow the declared ones.
        version: raised when the meaning of a column changes.
    """

    name: str
    stage: str
    path: str
    description: str
    declared: Sequence[Column]
    key: Sequence[str]
    open: bool = False
    version: int = 1

    @property
    def columns(self) -> dict[str, pl.DataType]:
        """Column name to Polars type, in order, optional columns included."""
        return {column.name: column.kind for column in self.declared}

    @property
    def holds_vectors(self) -> bool:
        """Whether a column holds vectors."""
        return any(isinstance(column.kind, pl.Array) for column in self.declared)

    @property
    def group_rows(self) -> int:
        """Rows of a row group of its files; the last one holds what is left.

        Left to itself, Polars lets the number of its threads decide.
        """
        return 1 << (15 if self.holds_vectors else 17)

    def frame(
        self,
        rows: Sequence[Mapping[str, Any]]
        | Mapping[str, Sequence[Any] | pl.Series | np.ndarray] = (),
    ) -> pl.DataFrame:
        """Rows, or columns by name, as a frame with the declared types and order.

        Optional columns that nothing is given for are left out.

        Raises:
            ValueError: a column that is not declared, unless the table is open.
        """
        names = rows if isinstance(rows, Mapping) else {name for row in rows for name in row}
        schema = {
            column.name: column.kind
            for column in self.declared
            if not column.optional or column.name in names
        }
        further = sorted(set(names) - set(schema))
        if further and not self.open:
            raise ValueError(f"table {self.name}: unknown column {further[0]}")
        return pl.DataFrame(rows, schema=schema | dict.fromkeys(further, pl.Float64()))

    def select(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The table's columns of a frame, in order; whatever else it holds is dropped."""
        return frame.select(
            column.name
            for column in self.declared
            if not column.optional or column.name in frame.columns
        )


def vector() -> pl.Array:
    """Type of a column of float32 vectors of one width."""
    return pl.Array(pl.Float32, 0)


def write_table(table: Table, frame: pl.DataFrame, path: Path, provenance: Provenance) -> None:
    """Check a frame against its schema and write it atomically.

    Raises:
        ValueError: the frame breaks its own schema (a bug of the stage).
        CaptError: the file cannot be written.
    """
    problem = schema_problem(table, frame)
    if problem:
        raise ValueError(f"table {table.name}: {problem}")
    with atomic_path(path) as temporary:
        frame.write_parquet(
            temporary, row_group_size=table.group_rows, **file_options(table, provenance)
        )
        seal(temporary)


def file_options(table: Table, provenance: Provenance) -> dict[str, Any]:
    """How Polars is to write a table's file: compression, and a record that awaits its digest."""
    record = {
        "table": table.name,
        "version": table.version,
        "digest": PLACEHOLDER,
        **lineage.recorded(provenance),
    }
    # Statistics and dictionaries cost much and save nothing on float vectors; their readers look up
    # where each page begins.
    plain = table.holds_vectors
    return {
        "data_page_size": _VECTOR_PAGE if plain else None,
        "compression": "uncompressed" if plain else "zstd",
        # The lowest level saves a third of the time and costs a twentieth of the space.
        "compression_level": None if plain else 1,
        "statistics": not plain,
        "metadata": {METADATA_KEY: json.dumps(record, sort_keys=True)},
    }


def read_table(table: Table, path: Path, expected: Provenance | None = None) -> pl.DataFrame:
    """Read a table, check its schema, and refuse one made from other data or another backbone.

    Args:
        table: what the file must hold.
        path: the Parquet file.
        expected: data set and backbone that the reader works with; None checks neither.

    Raises:
        CaptError: missing or damaged file, wrong columns, duplicate keys, foreign origin. The
            message names the file and the stage that writes it.
    """
    remedy = run_stage(table.stage, path, expected.dataset if expected else None)
    frame, record = load_table(path, remedy)
    check_table(table, path, frame, record, remedy)
    if expected is not None:
        lineage.admit(path, record, expected, remedy)
    return frame


def load_table(path: Path, remedy: str | Remedy) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Any Parquet table and its record.

    The record is empty for those of other programs; it has a digest if the content is as it says.

    Raises:
        CaptError: missing or damaged file, or one that the system does not let be read.
    """
    with readable(path, remedy) as sealed:
        frame, record = pl.read_parquet(path, glob=False), read_record(path)
    if not sealed:
        record.pop("digest", None)
    return frame, record


@contextlib.contextmanager
def readable(path: Path, remedy: str | Remedy) -> Iterator[bool]:
    """A block that reads a Parquet file whose content is as its digest says.

    Yields:
        Whether it carries a digest.

    Raises:
        CaptError: missing or damaged file, or one that the system does not let be read; whatever
            reading raises in the block.
    """
    check_file(path, remedy)
    try:
        intact = is_intact(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if intact is False:
        raise CaptError(f"{path}: damaged, its content is not what was written; {remedy}")
    with parsing(path, remedy):
        yield bool(intact)


@contextlib.contextmanager
def parsing(path: Path, remedy: str | Remedy) -> Iterator[None]:
    """A block that reads a Parquet file; what goes wrong in it is the file's fault.

    Raises:
        CaptError: whatever reading raises.
    """
    try:
        yield
    except (*_POLARS_ERRORS, OSError, ValueError) as error:
        raise CaptError(f"{path}: not a readable Parquet table; {remedy}") from error


_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


def check_table(
    table: Table, path: Path, frame: pl.DataFrame, record: Mapping[str, Any], remedy: str | Remedy
) -> None:
    """Refuse what is not the table that is expected.

    Raises:
        CaptError: another table or version, no digest, or what breaks the schema.
    """
    check_record(table, path, record, remedy)
    problem = schema_problem(table, frame) or value_problem(table, frame)
    if problem:
        raise CaptError(f"{path}: {problem}; {remedy}")


def check_record(table: Table, path: Path, record: Mapping[str, Any], remedy: str | Remedy) -> None:
    """Refuse a file whose record is not that of the table.

    Raises:
        CaptError: another table or version, or no digest.
    """
    if record.get("table") != table.name or record.get("version") != table.version:
        raise CaptError(
            f"{path}: holds {shown(record.get('table', 'an unknown table'))} in version "
            f"{shown(record.get('version'))}, expected {table.name!r} in version {table.version}; "
            f"{remedy}"
        )
    if record.get("digest") is None:
        raise CaptError(
            f"{path}: not written by this project, or by an earlier version: no XXH3 digest; "
            f"{remedy}"
        )


def read_record(path: Path) -> dict[str, Any]:
    """What a table's file metadata says of it; empty for Parquet files of other programs.

    Raises:
        ValueError: it is no JSON object.
    """
    return parse_record(pl.read_parquet_metadata(path).get(METADATA_KEY, "{}"))


def read_provenance(path: Path) -> Provenance:
    """Origin recorded in a table's file metadata."""
    return Provenance.from_dict(read_record(path))


def schema_problem(table: Table, frame: pl.DataFrame) -> str | None:
    """First way in which a frame departs from its schema, or None."""
    return type_problem(table, frame) or null_problem(table, frame) or key_problem(table, frame)


def type_problem(table: Table, frame: pl.DataFrame) -> str | None:
    """First column that a frame lacks, has of another type or should not have, or None."""
    for column in table.declared:
        name, kind = column.name, column.kind
        if name not in frame.columns:
            if column.optional:
                continue
            return f"column {name} is missing"
        found = frame.schema[name]
        same = (
            isinstance(found, pl.Array) and found.inner == kind.inner
            if isinstance(kind, pl.Array)
            else found == kind
        )
        if not same:
            return f"column {name} has type {found}, expected {kind}"
    for name in frame.columns:
        if name in table.columns:
            continue
        if not table.open:
            return f"unknown column {name}"
        if frame.schema[name] != pl.Float64:
            return f"column {name} has type {frame.schema[name]}, expected Float64"
    return None


def null_problem(table: Table, frame: pl.DataFrame) -> str | None:
    """First column of a frame that holds nulls and must not, or None."""
    for column in table.declared:
        if column.name in frame.columns and not column.nullable and frame[column.name].null_count():
            return f"column {column.name} holds nulls"
    return None


def key_problem(table: Table, frame: pl.DataFrame) -> str | None:
    """Whether two rows of a frame, which holds at least the key, have the same one."""
    keys = list(table.key)
    if keys and not _ascending(frame, keys) and frame.select(keys).is_duplicated().any():
        return f"two rows share the key ({', '.join(keys)})"
    return None


def _ascending(frame: pl.DataFrame, keys: Sequence[str]) -> bool:
    """Whether every row is behind the one before it; then no two are alike, at a tenth the cost."""
    behind = pl.lit(False)
    for column in map(pl.col, reversed(keys)):
        before = column.shift(1)
        behind = (column > before) | ((column == before) & behind)
    # Nulls compare as null, which does not count as behind.
    return bool(frame.select(behind.slice(1).all(ignore_nulls=False)).item())


def value_problem(table: Table, frame: pl.DataFrame) -> str | None:
    """First value that a table of this schema cannot hold, or None."""
    for column in table.declared:
        if column.name not in frame.columns:
            continue
        series = frame[column.name]
        if column.name.endswith("_id") and (series < 0).any():
            return f"column {column.name} holds a negative number"
        if column.unit in _RANGES:
            low, high = _RANGES[column.unit]
            values = series.explode() if isinstance(series.dtype, pl.List) else series
            # Rounding may leave a cosine a little above 1. NaN lies in no range.
            inside = values.drop_nulls().is_between(low - _ROUNDING, high + _ROUNDING)
            if not inside.all():
                return f"column {column.name} holds a value outside of {low} to {high}"
        if isinstance(column.kind, pl.Array) and (
            problem := vector_problem(column, series.to_numpy())
        ):
            return problem
    return None


def vector_problem(column: Column, values: np.ndarray) -> str | None:
    """Whether a column may not hold some vectors [n, d]: what is wrong with them, or None."""
    if column.unit == UNIT_LENGTH:
        # What is of unit length is finite.
        squares = np.einsum("nd,nd->n", values, values) if len(values) else np.ones(0)
        if (np.abs(np.sqrt(squares) - 1) <= _LENGTH_ROUNDING).all():
            return None
    if not np.isfinite(values).all():
        return f"column {column.name} holds numbers that are not finite"
    if column.unit == UNIT_LENGTH:
        return f"column {column.name} holds vectors that are not of unit length"
    return None


_VECTOR_PAGE = 1 << 27  # bytes: a row group of vectors of up to 1,024 numbers

_ROUNDING = 1e-3
_LENGTH_ROUNDING = 1e-2
_RANGES = {"share": (0, 1), "cosine": (-1, 1), "images": (0, float("inf"))}
