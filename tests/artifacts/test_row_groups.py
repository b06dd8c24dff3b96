"""Long tables: row groups of one size, whatever the frames, and the bytes of a table in one go."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from capt_core.artifacts import row_groups
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.row_groups import write_row_groups
from capt_core.artifacts.schemas import IMAGE_FEATURES
from capt_core.artifacts.tables import read_table, write_table
from capt_core.errors import CaptError
from tests.refusals import refusal

ORIGIN = Provenance("mine")
SCHEMA = {"sample_id": pl.Int64(), "feature": pl.Array(pl.Float32, 2)}


def frames(*lengths: int) -> list[pl.DataFrame]:
    starts = np.cumsum([0, *lengths])
    return [
        pl.DataFrame(
            {"sample_id": range(start, stop), "feature": [[0.6, 0.8]] * (stop - start)},
            schema=SCHEMA,
        )
        for start, stop in pairwise(starts)
    ]


def test_a_short_table_has_the_bytes_of_one_written_in_one_go(tmp_path: Path) -> None:
    parts = frames(5, 3, 1)
    write_row_groups(IMAGE_FEATURES, parts, SCHEMA, tmp_path / "parts.parquet", ORIGIN)
    write_table(IMAGE_FEATURES, pl.concat(parts), tmp_path / "whole.parquet", ORIGIN)
    assert (tmp_path / "parts.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_groups_have_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "ROW_GROUP", 4)
    path, written = tmp_path / "features.parquet", list[bytes]()
    for lengths in ((5, 3, 2), (10,), (1, 1, 8)):
        write_row_groups(IMAGE_FEATURES, frames(*lengths), SCHEMA, path, ORIGIN)
        written.append(path.read_bytes())
    assert written[0] == written[1] == written[2]
    found = pq.ParquetFile(path).metadata
    assert [found.row_group(place).num_rows for place in range(found.num_row_groups)] == [4, 4, 2]
    assert read_table(IMAGE_FEATURES, path)["sample_id"].to_list() == list(range(10))


def test_an_error_of_the_frames_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[pl.DataFrame]:
        yield from frames(3)
        raise CaptError("part 2 is damaged; run again")

    path = tmp_path / "features.parquet"
    message = refusal(write_row_groups, IMAGE_FEATURES, broken(), SCHEMA, path, ORIGIN)
    assert message == "part 2 is damaged; run again"
    assert list(tmp_path.iterdir()) == []
