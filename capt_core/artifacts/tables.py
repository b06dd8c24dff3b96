"""Parquet tables with a stated schema, checked on write and on read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from capt_core.artifacts.files import atomic_path
from capt_core.artifacts.provenance import Provenance
from capt_core.errors import CaptError

METADATA_KEY = "capt"


@dataclass(frozen=True)
class Table:
    """What one kind of Parquet table holds.

    Attributes:
        name: the table's name, recorded in the file.
        stage: the stage that writes it, named in errors.
        columns: column name to Polars type, in order. A list type stands for lists of any
            length; ``pl.Array`` of width 0 stands for vectors of any width.
        key: columns that together identify a row.
        nullable: columns that may hold nulls.
        version: raised when the meaning of a column changes.
    """

    name: str
    stage: str
    columns: Mapping[str, pl.DataType]
    key: Sequence[str]
    nullable: frozenset[str] = field(default_factory=frozenset)
    version: int = 1


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
    record = {"table": table.name, "version": table.version, **provenance.as_dict()}
    # Statistics and dictionaries cost much and save nothing on float vectors.
    plain = any(isinstance(kind, pl.Array) for kind in table.columns.values())
    with atomic_path(path) as temporary:
        try:
            frame.write_parquet(
                temporary,
                compression="uncompressed" if plain else "zstd",
                statistics=not plain,
                metadata={METADATA_KEY: json.dumps(record, sort_keys=True)},
            )
        except pl.exceptions.PolarsError as error:
            # The frame was checked above, so what Polars reports here is the disk's trouble.
            raise OSError(" ".join(str(error).split())) from error


def read_table(table: Table, path: Path, expected: Provenance | None = None) -> pl.DataFrame:
    """Read a table, check its schema, and refuse one made from other data or another backbone.

    Args:
        table: what the file must hold.
        path: the Parquet file.
        expected: data set and backbone that the reader works with; None checks neither.

    Raises:
        CaptError: missing or damaged file, wrong columns, duplicate keys, foreign origin. The
            message names the file and the stage that writes it anew.
    """
    remedy = f"run: capt-stage {table.stage} --dataset {_dataset_of(path, expected)}"
    if not path.is_file():
        raise CaptError(f"{path}: missing; {remedy}")
    try:
        frame = pl.read_parquet(path)
        record = json.loads(pl.read_parquet_metadata(path).get(METADATA_KEY, "{}"))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise CaptError(f"{path}: not a readable Parquet table; {remedy}") from error
    if record.get("table") != table.name or record.get("version") != table.version:
        raise CaptError(
            f"{path}: holds {record.get('table', 'an unknown table')!r} in version "
            f"{record.get('version')}, expected {table.name!r} in version {table.version}; {remedy}"
        )
    problem = schema_problem(table, frame)
    if problem:
        raise CaptError(f"{path}: {problem}; {remedy}")
    if expected is not None:
        foreign = Provenance.from_dict(record).mismatch(expected)
        if foreign:
            raise CaptError(f"{path}: {foreign}; {remedy}")
    return frame


def read_provenance(path: Path) -> Provenance:
    """Origin recorded in a table's file metadata."""
    return Provenance.from_dict(json.loads(pl.read_parquet_metadata(path)[METADATA_KEY]))


def schema_problem(table: Table, frame: pl.DataFrame) -> str | None:
    """First way in which a frame departs from its schema, or None."""
    for name, kind in table.columns.items():
        if name not in frame.columns:
            return f"column {name} is missing"
        found = frame.schema[name]
        same = (
            isinstance(found, pl.Array) and found.inner == kind.inner
            if isinstance(kind, pl.Array)
            else found == kind
        )
        if not same:
            return f"column {name} has type {found}, expected {kind}"
    extra = [name for name in frame.columns if name not in table.columns]
    if extra:
        return f"unknown column {extra[0]}"
    for name in frame.columns:
        if name not in table.nullable and frame[name].null_count():
            return f"column {name} holds nulls"
    keys = list(table.key)
    if keys and frame.select(keys).is_duplicated().any():
        return f"two rows share the key ({', '.join(keys)})"
    return None


def _dataset_of(path: Path, expected: Provenance | None) -> str:
    return expected.dataset if expected else path.parent.name
