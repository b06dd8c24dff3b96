"""Blocks of a long table: kept for one key, and written together."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from capt_core.artifacts.blocks import Blocks, write_blocks
from tests.refusals import refusal

SCHEMA = {"a": pl.Int64(), "b": pl.List(pl.String)}


def block(number: int) -> pl.DataFrame:
    return pl.DataFrame({"a": [number, number], "b": [["x", "y"], None]}, schema=SCHEMA)


def test_blocks_are_kept_for_one_key(tmp_path: Path) -> None:
    folder = tmp_path / "new/work"
    Blocks(folder, {"key": 1}, SCHEMA).write(3, block(3), 10**18)
    kept = Blocks(folder, {"key": 1}, SCHEMA)
    found = kept.read(3)
    assert found is not None
    assert found.equals(block(3))
    assert kept.begun(3) == 10**18
    assert kept.read(2) is None
    assert kept.count == 1
    assert Blocks(folder, {"key": 2}, SCHEMA).count == 0
    kept.remove()
    assert not folder.exists()


def test_damaged_blocks_and_those_of_other_columns_are_none(tmp_path: Path) -> None:
    kept = Blocks(tmp_path / "work", {}, SCHEMA)
    for number in range(3):
        kept.write(number, block(number), kept.now())
    (file,) = (tmp_path / "work").glob("*1.parquet")
    file.write_bytes(file.read_bytes()[:-9])
    kept.write(2, block(2).drop("b"), kept.now())
    assert [kept.read(number) is None for number in range(3)] == [False, True, True]
    assert "missing or damaged; run the command again" in refusal(list, kept.all(3))


def test_a_block_with_one_bit_changed_is_none(tmp_path: Path) -> None:
    kept = Blocks(tmp_path / "work", {}, SCHEMA)
    kept.write(0, block(0), kept.now())
    (file,) = (tmp_path / "work").glob("*.parquet")
    written = file.read_bytes()
    for place in range(len(written)):
        changed = bytearray(written)
        changed[place] ^= 1
        file.write_bytes(changed)
        assert kept.read(0) is None, place


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    precious = tmp_path / "work/thesis.txt"
    precious.write_text("chapter 1")
    assert "move it away" in refusal(Blocks, tmp_path / "work", {}, SCHEMA)
    assert precious.read_text() == "chapter 1"
    (tmp_path / "file").write_text("")
    assert "cannot be used" in refusal(Blocks, tmp_path / "file", {}, SCHEMA)


@pytest.mark.parametrize("count", [1, 65])
def test_blocks_become_one_table(count: int, tmp_path: Path) -> None:
    expected = pl.concat([block(number) for number in range(count)])

    def flat(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.col("b").list.join("; "))

    for name in ("t.parquet", "t.csv"):
        write_blocks(tmp_path / name, map(block, range(count)), flat)
    assert pl.read_parquet(tmp_path / "t.parquet").equals(expected)
    assert (tmp_path / "t.csv").read_text() == flat(expected).write_csv()
