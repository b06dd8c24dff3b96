"""Tables: what is written comes back, and whatever is wrong with a file is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import ALL_TABLES
from capt_core.artifacts.tables import (
    METADATA_KEY,
    Table,
    read_provenance,
    read_table,
    vector,
    write_table,
)
from capt_core.errors import CaptError

FRUIT = Table(
    "fruit",
    "pick-fruit",
    {
        "fruit_id": pl.Int64(),
        "name": pl.String(),
        "weight": pl.Float64(),
        "tags": pl.List(pl.String),
        "feature": vector(),
        "note": pl.String(),
    },
    key=["fruit_id", "name"],
    nullable=frozenset({"note"}),
)
ORIGIN = Provenance("orchard", "f00d", "clip@1", "s1")


def fruit() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "fruit_id": [0, 1, 1],
            "name": ["apple", "birne", "çilek"],
            "weight": [0.1, 2.0, 1e-300],
            "tags": [["red", "round"], [], ["small"]],
            "feature": pl.Series(
                [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], dtype=pl.Array(pl.Float32, 2)
            ),
            "note": [None, "ripe", None],
        }
    )


def store(frame: pl.DataFrame, path: Path, record: object | None = None) -> None:
    """Write a frame as the project would, without its checks."""
    if record is None:
        record = {"table": "fruit", "version": 1, **ORIGIN.as_dict()}
    frame.write_parquet(path, metadata={METADATA_KEY: json.dumps(record)})


def refusal(path: Path, expected: Provenance | None = ORIGIN) -> str:
    """The error of reading a file; it names the file and the stage that mends it."""
    with pytest.raises(CaptError) as caught:
        read_table(FRUIT, path, expected)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "capt-stage pick-fruit" in message
    return message


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "orchard" / "fruit.parquet"
    write_table(FRUIT, fruit(), path, ORIGIN)
    read = read_table(FRUIT, path, ORIGIN)
    assert read.equals(fruit(), null_equal=True)
    assert read.schema == fruit().schema
    assert read_provenance(path) == ORIGIN


def test_an_empty_table_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "fruit.parquet"
    write_table(FRUIT, fruit().clear(), path, ORIGIN)
    assert read_table(FRUIT, path, ORIGIN).schema == fruit().schema


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_table(FRUIT, fruit(), tmp_path / name, ORIGIN)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (fruit().drop("weight"), "column weight is missing"),
        (fruit().with_columns(pl.col("weight").cast(pl.Float32)), "column weight has type Float32"),
        (fruit().with_columns(pl.col("fruit_id").cast(pl.Int32)), "column fruit_id has type Int32"),
        (fruit().with_columns(tags=pl.lit("red")), "column tags has type String"),
        (
            fruit().with_columns(pl.col("feature").cast(pl.Array(pl.Float64, 2))),
            "column feature has type Array",
        ),
        (
            fruit().with_columns(pl.col("feature").cast(pl.List(pl.Float32))),
            "column feature has type List",
        ),
        (fruit().with_columns(colour=pl.lit("red")), "unknown column colour"),
        (fruit()[[0, 1, 1]], "two rows share the key (fruit_id, name)"),
        (
            fruit().with_columns(weight=pl.Series([1.0, None, 2.0])),
            "column weight holds nulls",
        ),
        (
            fruit().with_columns(name=pl.Series(["a", None, "b"])),
            "column name holds nulls",
        ),
    ],
)
def test_a_frame_that_breaks_its_schema_is_neither_written_nor_read(
    tmp_path: Path, broken: pl.DataFrame, problem: str
) -> None:
    path = tmp_path / "fruit.parquet"
    with pytest.raises(ValueError, match="table fruit") as caught:
        write_table(FRUIT, broken, path, ORIGIN)
    assert problem in str(caught.value)
    assert not path.exists()
    store(broken, path)
    assert problem in refusal(path)


def test_equal_parts_of_a_key_are_no_duplicate(tmp_path: Path) -> None:
    assert fruit()["fruit_id"].is_duplicated().any()
    write_table(FRUIT, fruit(), tmp_path / "fruit.parquet", ORIGIN)


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        (Provenance("field"), "made for data set 'orchard', not 'field'"),
        (Provenance("orchard", "beef"), "other images or classes (f00d)"),
        (Provenance("orchard", "f00d", "clip@2"), "another backbone (clip@1)"),
    ],
)
def test_a_table_of_foreign_origin_is_refused(
    tmp_path: Path, expected: Provenance, problem: str
) -> None:
    path = tmp_path / "fruit.parquet"
    write_table(FRUIT, fruit(), path, ORIGIN)
    message = refusal(path, expected)
    assert problem in message
    assert f"--dataset {expected.dataset}" in message


@pytest.mark.parametrize(
    "expected",
    [
        None,
        Provenance("orchard"),
        Provenance("orchard", "f00d"),
        Provenance("orchard", "", "clip@1"),
        Provenance("orchard", "f00d", "clip@1", "other settings"),
    ],
)
def test_only_what_both_sides_state_is_compared(
    tmp_path: Path, expected: Provenance | None
) -> None:
    path = tmp_path / "fruit.parquet"
    write_table(FRUIT, fruit(), path, ORIGIN)
    assert read_table(FRUIT, path, expected).height == 3


def test_a_missing_file_names_the_stage_that_writes_it(tmp_path: Path) -> None:
    assert "missing" in refusal(tmp_path / "fruit.parquet")


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    assert "missing" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a table at all", b"\x00" * 5000])
def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fruit.parquet"
    path.write_bytes(content)
    assert "not a readable Parquet table" in refusal(path)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "fruit.parquet"
    write_table(FRUIT, fruit(), path, ORIGIN)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "not a readable Parquet table" in refusal(path)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({}, "'an unknown table'"),
        ({"table": "vegetables", "version": 1}, "'vegetables'"),
        ({"table": "fruit", "version": 2}, "version 2"),
        ({"table": "fruit"}, "version None"),
    ],
)
def test_another_table_or_version_is_refused(tmp_path: Path, record: object, found: str) -> None:
    path = tmp_path / "fruit.parquet"
    store(fruit(), path, record)
    message = refusal(path)
    assert found in message
    assert "expected 'fruit' in version 1" in message


@pytest.mark.parametrize("record", ["", "{", "not JSON"])
def test_damaged_metadata_is_refused(tmp_path: Path, record: str) -> None:
    path = tmp_path / "fruit.parquet"
    fruit().write_parquet(path, metadata={METADATA_KEY: record})
    assert "not a readable Parquet table" in refusal(path)


def test_parquet_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fruit.parquet"
    fruit().write_parquet(path)
    assert "an unknown table" in refusal(path)


def test_without_an_expectation_the_folder_names_the_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "orchard"
    assert "--dataset orchard" in refusal(folder / "fruit.parquet", None)


_FULL_DISK = """
import random, resource, signal, sys
from pathlib import Path
import polars as pl
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.tables import Table, vector, write_table
from capt_core.errors import CaptError

generator = random.Random(0)
ids = range(20_000)
if sys.argv[2] == "text":
    kind, column = pl.String(), [str(generator.random()) for _ in ids]
else:
    kind, column = vector(), pl.Series([[1.0, 2.0]] * len(ids), dtype=pl.Array(pl.Float32, 2))
table = Table("t", "s", {"i": pl.Int64(), "x": kind}, key=["i"])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_table(table, pl.DataFrame({"i": ids, "x": column}), Path(sys.argv[1]), Provenance("d"))
except CaptError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("content", ["text", "vectors"])
def test_a_full_disk_is_one_line_and_keeps_the_old_file(
    tmp_path: Path, project: Path, content: str
) -> None:
    target = tmp_path / "t.parquet"
    target.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(target), content],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    assert done.returncode == 2, done.stderr.splitlines()[-1:]
    assert str(target) in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: str(table.name))
def test_every_table_has_a_key_and_a_stage(table: Table) -> None:
    assert table.key
    assert set(table.key) <= set(table.columns)
    assert table.nullable <= set(table.columns)
    assert not table.nullable & set(table.key)
    assert table.stage == table.stage.lower()


def test_table_names_are_unique() -> None:
    names = [table.name for table in ALL_TABLES]
    assert len(names) == len(set(names))
