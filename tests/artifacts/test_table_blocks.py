"""Tables written and read a part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.table_blocks import read_columns, read_groups, spans, write_groups
from capt_core.artifacts.tables import Column, Table, read_table, write_table
from capt_core.errors import CaptError

STEPS = Table(
    "steps",
    "count",
    "<dataset>/steps.parquet",
    "One row per step.",
    [
        Column("step", pl.Int64(), "from 0"),
        Column("share", pl.Float64(), "of all", unit="share"),
        Column("word", pl.String(), "said"),
    ],
    key=["step"],
)
ORIGIN = Provenance("dtd", "0123456789abcdef")


def steps(count: int) -> pl.DataFrame:
    numbers = pl.int_range(count, dtype=pl.Int64, eager=True)
    return STEPS.frame(
        {"step": numbers, "share": numbers / max(count, 1), "word": (numbers % 7).cast(pl.String)}
    )


@given(st.integers(0, 300), st.integers(1, 40))
def test_spans_cover_all_evenly(count: int, rows: int) -> None:
    found = spans(count, rows)
    assert [number for span in found for number in span] == list(range(count))
    lengths = {len(span) for span in found}
    assert not lengths or (max(lengths) <= rows and max(lengths) - min(lengths) <= 1)


@pytest.mark.parametrize("count", [0, 1, 500])
def test_short_tables_have_the_bytes_of_whole_ones(tmp_path: Path, count: int) -> None:
    frame = steps(count)
    write_table(STEPS, frame, tmp_path / "whole.parquet", ORIGIN)
    assert write_groups(STEPS, frame.iter_slices(60), tmp_path / "parts.parquet", ORIGIN) == count
    parts = (tmp_path / "parts.parquet").read_bytes()
    assert parts == (tmp_path / "whole.parquet").read_bytes()
    assert read_columns(STEPS, tmp_path / "parts.parquet", ORIGIN).equals(frame)


def test_long_tables_have_row_groups_of_one_length(tmp_path: Path) -> None:
    frame, path = steps(STEPS.group_rows + 5), tmp_path / "steps.parquet"
    for file in (path, tmp_path / "again.parquet"):
        write_groups(STEPS, frame.iter_slices(50_000), file, ORIGIN)
    assert path.read_bytes() == (tmp_path / "again.parquet").read_bytes()
    groups = list(read_groups(STEPS, path, ORIGIN, ["share"]))
    assert [len(group) for group in groups] == [STEPS.group_rows, 5]
    assert groups[1].columns == ["step", "share"]
    assert read_table(STEPS, path, ORIGIN).equals(frame)


def test_what_breaks_off_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "steps.parquet"
    write_table(STEPS, steps(3), path, ORIGIN)
    before = path.read_bytes()

    def broken() -> Iterator[pl.DataFrame]:
        yield steps(9)
        raise CaptError("no more")

    with pytest.raises(CaptError, match="no more"):
        write_groups(STEPS, broken(), path, ORIGIN)
    with pytest.raises(ValueError, match="two rows share the key"):
        write_groups(STEPS, [steps(2), steps(2)], path, ORIGIN)
    with pytest.raises(ValueError, match="column word is missing"):
        write_groups(STEPS, [steps(2), steps(2).drop("word")], path, ORIGIN)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["steps.parquet"]


def test_columns_of_later_blocks_may_come_in_another_order(tmp_path: Path) -> None:
    path = tmp_path / "steps.parquet"
    turned = steps(5)[3:].select(reversed(steps(1).columns))
    write_groups(STEPS, [steps(5)[:3], turned], path, ORIGIN)
    assert read_table(STEPS, path, ORIGIN).equals(steps(5))


def test_what_cannot_be_written_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full)
    many = (steps(1).with_columns(step=pl.lit(number, dtype=pl.Int64)) for number in range(20))
    with pytest.raises(CaptError, match="No space left"):
        write_groups(STEPS, many, tmp_path / "steps.parquet", ORIGIN)


def test_a_writer_that_panics_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("at the disco")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", panic)
    with pytest.raises(pl.exceptions.PanicException, match="at the disco"):
        write_groups(STEPS, [steps(3)], tmp_path / "steps.parquet", ORIGIN)
    assert list(tmp_path.iterdir()) == []


def test_groups_are_checked_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "steps.parquet"
    write_table(STEPS, steps(3).with_columns(share=pl.lit(2.0)), path, ORIGIN)
    with pytest.raises(CaptError, match="outside of 0 to 1"):
        list(read_groups(STEPS, path, ORIGIN))
    with pytest.raises(CaptError, match="made for data set 'dtd'"):
        read_groups(STEPS, path, Provenance("pets"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CaptError, match=r"steps\.parquet"):
        read_groups(STEPS, path, ORIGIN)
