"""A long table in blocks: each is kept as soon as it is there, and an interrupted run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from capt_core.artifacts.digests import PLACEHOLDER, is_intact, seal
from capt_core.artifacts.files import atomic_path, time_in, write_json
from capt_core.errors import CaptError, reason

_KEY = "made_from.json"
_ROWS_AT_ONCE = 64  # blocks that make a row group of a Parquet file


class Blocks:
    """Blocks of rows below a folder, valid for one key.

    What lies there under another key is removed.

    Args:
        folder: made if it is not there.
        key: all that the rows depend on, as plain values.
        schema: columns and types of every block.

    Raises:
        CaptError: the folder holds something else, or cannot be written.
    """

    def __init__(
        self, folder: Path, key: Mapping[str, Any], schema: Mapping[str, pl.DataType]
    ) -> None:
        self._folder, self._schema = folder, pl.Schema(schema)
        known = folder / _KEY
        try:
            if folder.exists() and _read(known) != dict(key):
                if not known.is_file() and any(folder.iterdir()):
                    raise CaptError(
                        f"{folder}: not made by this command, which keeps its work there; move it "
                        "away"
                    )
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CaptError(
                f"{folder}: cannot be used ({error.strerror or reason(error)}); check its "
                "permissions, or move it away"
            ) from error
        if not known.is_file():
            write_json(known, dict(key))

    @property
    def count(self) -> int:
        """Blocks that are there."""
        return sum(1 for _ in self._folder.glob("[0-9]*.parquet"))

    def read(self, number: int) -> pl.DataFrame | None:
        """A block; None if it is not there, or damaged."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            # Parquet alone notices few of the bits that change.
            if not is_intact(path):
                return None
            frame = pl.read_parquet(path, glob=False)
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return None
        return frame if frame.schema == self._schema else None

    def begun(self, number: int) -> int:
        """When work on a block that is there was begun, in ns; see `now`."""
        return self._path(number).stat().st_mtime_ns

    def now(self) -> int:
        """Time in ns by the clock of the folder's file system."""
        return time_in(self._folder)

    def write(self, number: int, frame: pl.DataFrame, begun: int) -> None:
        """Keep a block, with when work on it was begun."""
        with atomic_path(self._path(number)) as temporary:
            frame.write_parquet(temporary, metadata={"digest": PLACEHOLDER})
            seal(temporary)
            os.utime(temporary, ns=(begun, begun))

    def all(self, count: int) -> Iterable[pl.DataFrame]:
        """All blocks in order, one at a time.

        Raises:
            CaptError: one is not there any more.
        """
        for number in range(count):
            frame = self.read(number)
            if frame is None:
                raise CaptError(f"{self._path(number)}: missing or damaged; run the command again")
            yield frame

    def remove(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.parquet"


def _read(path: Path) -> Any:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def write_blocks(
    target: Path,
    blocks: Iterable[pl.DataFrame],
    as_text: Callable[[pl.DataFrame], pl.DataFrame],
) -> None:
    """Write blocks as one CSV or Parquet file, by the ending of its name, atomically.

    Args:
        target: ends in ``.csv`` or ``.parquet``.
        blocks: one or more, of the same columns.
        as_text: gives a block the columns that a CSV can hold.
    """
    with atomic_path(target) as temporary:
        if target.suffix == ".parquet":
            _write_parquet(temporary, blocks)
        else:
            with temporary.open("wb") as stream:
                for number, frame in enumerate(blocks):
                    as_text(frame).write_csv(stream, include_header=number == 0)


def _write_parquet(path: Path, blocks: Iterable[pl.DataFrame]) -> None:
    import pyarrow.parquet as pq

    writer, held = None, list[pl.DataFrame]()

    def flush() -> Any:
        table = pl.concat(held).to_arrow(compat_level=pl.CompatLevel.oldest())
        held.clear()
        opened = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        opened.write_table(table)
        return opened

    try:
        for frame in blocks:
            held.append(frame)
            if len(held) == _ROWS_AT_ONCE:
                writer = flush()
        if held:
            writer = flush()
    finally:
        if writer is not None:
            writer.close()
