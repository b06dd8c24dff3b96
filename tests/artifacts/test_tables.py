"""Tables: what is written comes back, and whatever is wrong with a file is named."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt_core.artifacts.digests import PLACEHOLDER, seal
from capt_core.artifacts.documentation import render
from capt_core.artifacts.provenance import METADATA_KEY, Provenance
from capt_core.artifacts.schemas import ALL_TABLES, SAMPLES, TRAINING_LOG, open_table
from capt_core.artifacts.tables import (
    UNIT_LENGTH,
    Column,
    Table,
    key_problem,
    read_provenance,
    read_table,
    schema_problem,
    value_problem,
    vector,
    write_table,
)
from tests.processes import python
from tests.refusals import refusal

FRUIT = Table(
    "fruit",
    "pick-fruit",
    "<dataset>/fruit.parquet",
    "One row per fruit and name.",
    [
        Column("fruit_id", pl.Int64(), "number of the fruit"),
        Column("name", pl.String(), "in some language"),
        Column("weight", pl.Float64(), "when picked", unit="kg"),
        Column("tags", pl.List(pl.String), "further words"),
        Column("feature", vector(), "looks"),
        Column("note", pl.String(), "by hand", nullable=True),
    ],
    key=["fruit_id", "name"],
)
LOG = Table(
    "log",
    "pick-fruit",
    "<dataset>/log.parquet",
    "One row per day.",
    [
        Column("day", pl.Int64(), "from 1"),
        Column("rain", pl.Float64(), "of the day", unit="mm"),
        Column("frost", pl.Int64(), "hours of it", unit="h", nullable=True, optional=True),
    ],
    key=["day"],
    open=True,
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
    text = json.dumps(record)
    if isinstance(record, dict):
        text = json.dumps({**record, "digest": PLACEHOLDER})
    frame.write_parquet(path, metadata={METADATA_KEY: text})
    if PLACEHOLDER in text:
        seal(path)


def read_refusal(path: Path, expected: Provenance | None = ORIGIN) -> str:
    """The error of reading a file; it names the file and the stage that writes it."""
    message = refusal(read_table, FRUIT, path, expected)
    assert str(path) in message
    assert "capt-stage pick-fruit" in message
    return message


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "orchard" / "fruit.parquet"
    for frame in (fruit(), fruit().clear()):
        write_table(FRUIT, frame, path, ORIGIN)
        read = read_table(FRUIT, path, ORIGIN)
        assert read.equals(frame, null_equal=True)
        assert read.schema == frame.schema
        assert read_provenance(path) == ORIGIN


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_table(FRUIT, fruit(), tmp_path / name, ORIGIN)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


KEYS = st.lists(
    st.tuples(st.none() | st.integers(0, 3), st.none() | st.sampled_from("ab")), max_size=6
)


@given(KEYS, st.booleans())
def test_rows_share_a_key_in_any_order(keys: list[tuple[int | None, str | None]], by: bool) -> None:
    if by:
        keys = sorted(keys, key=str)
    frame = pl.DataFrame(keys, schema={"fruit_id": pl.Int64, "name": pl.String}, orient="row")
    assert (key_problem(FRUIT, frame) is None) is (len(set(keys)) == len(keys))


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
    assert problem in read_refusal(path)


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
    message = read_refusal(path, expected)
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


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fruit.parquet"
    assert "missing" in read_refusal(path)
    assert "a folder, not a file" in read_refusal(tmp_path)
    write_table(FRUIT, fruit(), path, ORIGIN)
    whole = path.read_bytes()
    cut_off = [whole[: int(share * len(whole))] for share in (0.01, 0.25, 0.5, 0.9, 0.999)]
    for content in (b"", b"PAR1", b"not a table at all", b"\x00" * 5000, *cut_off):
        path.write_bytes(content)
        assert re.search("not a readable Parquet table|damaged, its content", read_refusal(path))
    for record in ("", "{", "not JSON"):
        fruit().write_parquet(path, metadata={METADATA_KEY: record})
        assert "not a readable Parquet table" in read_refusal(path)
    # Parquet of another program.
    fruit().write_parquet(path)
    assert "an unknown table" in read_refusal(path)


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
    message = read_refusal(path)
    assert found in message
    assert "expected 'fruit' in version 1" in message


def test_without_an_expectation_the_folder_names_the_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "orchard"
    assert "--dataset orchard" in read_refusal(folder / "fruit.parquet", None)


_FULL_DISK = """
import random, resource, signal, sys
from pathlib import Path
import polars as pl
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.tables import Column, Table, vector, write_table
from capt_core.errors import CaptError

generator = random.Random(0)
ids = range(20_000)
if sys.argv[2] == "text":
    kind, column = pl.String(), [str(generator.random()) for _ in ids]
else:
    kind, column = vector(), pl.Series([[1.0, 2.0]] * len(ids), dtype=pl.Array(pl.Float32, 2))
columns = [Column("i", pl.Int64(), ""), Column("x", kind, "")]
table = Table("t", "s", "t.parquet", "One row.", columns, key=["i"])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_table(table, pl.DataFrame({"i": ids, "x": column}), Path(sys.argv[1]), Provenance("d"))
except CaptError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("content", ["text", "vectors"])
def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path: Path, content: str) -> None:
    target = tmp_path / "t.parquet"
    target.write_text("old")
    done = python("-c", _FULL_DISK, target, content)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    assert done.returncode == 2, done.stderr.splitlines()[-1:]
    assert str(target) in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        ({"day": [1], "rain": [0.5]}, None),
        ({"day": [1], "rain": [0.5], "frost": [None]}, None),
        ({"day": [1, 2], "rain": [0.5, 0.0], "wind": [None, 2.0]}, None),
        ({"day": [1]}, "column rain is missing"),
        ({"day": [1], "rain": [0.5], "frost": [0.5]}, "column frost has type Float64"),
        ({"day": [1], "rain": [0.5], "wind": ["much"]}, "column wind has type String"),
    ],
)
def test_optional_and_further_columns(log: dict[str, list[object]], problem: str | None) -> None:
    types = {"frost": pl.Int64} if log.get("frost") == [None] else {}
    found = schema_problem(LOG, pl.DataFrame(log, schema_overrides=types))
    assert (found or "").startswith(problem or "")
    assert bool(found) == bool(problem)


def test_frames_have_the_declared_types_and_order() -> None:
    days = LOG.frame([{"rain": 1, "day": 1}, {"day": 2, "rain": 0.5, "wind": 3}])
    assert days.schema == {"day": pl.Int64, "rain": pl.Float64, "wind": pl.Float64}
    assert days.rows() == [(1, 1.0, None), (2, 0.5, 3.0)]
    assert LOG.frame({"frost": [7], "rain": [1], "day": [1]}).rows() == [(1, 1.0, 7)]
    assert LOG.frame().schema == {"day": pl.Int64, "rain": pl.Float64}
    with pytest.raises(ValueError, match="table fruit: unknown column colour"):
        FRUIT.frame([{"colour": "red"}])


def test_selection_takes_what_is_declared() -> None:
    wide = fruit().with_columns(colour=pl.lit("red")).select(reversed([*FRUIT.columns, "colour"]))
    assert FRUIT.select(wide).equals(fruit(), null_equal=True)
    assert LOG.select(pl.DataFrame({"rain": [0.5], "day": [1]})).columns == ["day", "rain"]


def test_inputs_are_recorded_and_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "fruit.parquet"
    inputs = {"orchard/trees.parquet": "0123"}
    write_table(FRUIT, fruit(), path, replace(ORIGIN, inputs=inputs))
    assert read_provenance(path).inputs == inputs
    assert read_table(FRUIT, path, replace(ORIGIN, inputs={"orchard/trees.parquet": "4"})).height
    assert "inputs" not in ORIGIN.as_dict()


def test_one_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "fruit.parquet"
    write_table(FRUIT, fruit(), path, ORIGIN)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(flipped(whole, place))
        assert re.search(
            "damaged|not a readable Parquet table|not written by this project|unknown table",
            read_refusal(path),
        ), place


def flipped(content: bytes, place: int) -> bytes:
    """Content with one bit of one byte turned."""
    return content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]


def test_a_table_without_a_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fruit.parquet"
    record = {"table": "fruit", "version": 1, **ORIGIN.as_dict()}
    fruit().write_parquet(path, metadata={METADATA_KEY: json.dumps(record)})
    assert "no XXH3 digest" in read_refusal(path)


MEASURED = Table(
    "measured",
    "pick-fruit",
    "<dataset>/measured.parquet",
    "One row per fruit.",
    [
        Column("fruit_id", pl.Int64(), "number"),
        Column("ripe", pl.Float64(), "part of it", unit="share", nullable=True),
        Column("likeness", pl.Float64(), "to an apple", unit="cosine"),
        Column("seen", pl.Int64(), "how often", unit="images"),
        Column("feature", vector(), "looks", unit=UNIT_LENGTH),
    ],
    key=["fruit_id"],
)


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("fruit_id", -1, "column fruit_id holds a negative number"),
        ("ripe", 1.1, "column ripe holds a value outside of 0 to 1"),
        ("ripe", float("nan"), "column ripe holds a value outside of 0 to 1"),
        ("ripe", None, None),
        ("likeness", -1.1, "column likeness holds a value outside of -1 to 1"),
        ("likeness", -1.0001, None),
        ("seen", -3, "column seen holds a value outside of 0 to inf"),
        ("feature", [0.0, float("inf")], "column feature holds numbers that are not finite"),
        ("feature", [float("nan"), 0.0], "column feature holds numbers that are not finite"),
        ("feature", [1.0, 1.0], "column feature holds vectors that are not of unit length"),
        ("feature", [0.6, 0.8], None),
    ],
)
def test_values_lie_where_their_units_say(column: str, value: object, problem: str | None) -> None:
    plain = {"fruit_id": 0, "ripe": 0.5, "likeness": 0.0, "seen": 1, "feature": [1.0, 0.0]}
    types = {**MEASURED.columns, "feature": pl.Array(pl.Float32, 2)}
    frame = pl.DataFrame([{**plain, column: value}], schema=types)
    assert schema_problem(MEASURED, frame) is None
    assert value_problem(MEASURED, frame) == problem


def test_what_the_system_does_not_let_be_read_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cannot read (File name too long)" in refusal(
        read_table, FRUIT, tmp_path / ("x" * 300), ORIGIN
    )
    assert "the name holds a NUL character" in refusal(read_table, FRUIT, tmp_path / "a\0b", ORIGIN)
    path = tmp_path / "fruit.parquet"
    write_table(FRUIT, fruit(), path, ORIGIN)

    def forbidden(*_: object, **__: object) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for name in ("open", "stat"):
        with monkeypatch.context() as patch:
            # Tests may run as a user whom no permission stops.
            patch.setattr(Path, name, forbidden)
            for call in ((read_table, FRUIT, path, ORIGIN), (open_table, path)):
                message = refusal(*call)
                assert "cannot read (Permission denied)" in message
                assert "permissions" in message


def test_a_file_names_its_own_table(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    log: dict[str, Sequence[float]]
    log = {"step": [1], "epoch": [1], "learning_rate": [0.1], "loss": [2.0]}
    write_table(TRAINING_LOG, TRAINING_LOG.frame(log), path, ORIGIN)
    assert open_table(path).to_dict(as_series=False) == log


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "missing"),
        (b"PAR1", "not a readable Parquet table"),
        ({}, "holds 'an unknown table'"),
        ({"table": "fruit"}, "holds 'fruit'"),
        ({"table": "samples", "version": 1, "dataset": "orchard"}, "column sample_id is missing"),
    ],
)
def test_whatever_else_is_no_table(tmp_path: Path, content: object, problem: str) -> None:
    path = tmp_path / "t.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        store(fruit(), path, content)
    for words in (problem, str(path), "capt-stage"):
        assert words in refusal(open_table, path)


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: str(table.name))
def test_every_table_is_declared_in_full(table: Table) -> None:
    columns = {column.name: column for column in table.declared}
    assert len(columns) == len(table.declared)
    assert table.key
    for name in table.key:
        assert not columns[name].nullable
        assert not columns[name].optional
    assert all(column.meaning for column in table.declared)
    assert table.description.startswith("One row per ")
    assert table.stage == table.stage.lower()


def test_table_names_are_unique() -> None:
    assert ALL_TABLES[0] is SAMPLES
    for values in ([table.name for table in ALL_TABLES], [table.path for table in ALL_TABLES]):
        assert len(values) == len(set(values))


def test_the_page_on_artifacts_is_current(project: Path) -> None:
    # If this fails: python -m capt_core.artifacts.documentation artifacts/README.md
    assert (project / "artifacts" / "README.md").read_text(encoding="utf-8") == render()
