"""Lists of any content: they are read, or one line says why not; never an error of another kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt_core.data.class_file import read_class_file
from capt_core.data.parquet_images import holds_images
from capt_core.data.readers.image_tables import read_image_tables
from capt_core.data.readers.listing import to_split
from capt_core.data.readers.split_json import read_split_json
from capt_core.data.readers.tables import read_tables
from capt_core.data.splits import Rejects, SplitData, check_classes
from capt_core.errors import CaptError
from capt_core.params import Data
from tests.data.own_images import hugging_face_table

WORDS = st.sampled_from(
    ["", "a", "b.jpg", "../x", "/x", "train", "0", "-1", "é", "x\ny", "\ud800", "{}"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.lists(st.tuples(WORDS, st.integers(-1, 2), WORDS) | JSON, max_size=4)
SPLITS = st.fixed_dictionaries({"train": ENTRIES, "val": ENTRIES, "test": ENTRIES}) | JSON


def sound(data: SplitData) -> bool:
    """Whether what was listed can be used: no path leaves the folder, ids fit the names."""
    paths = data.samples["path"].to_list()
    return (
        len(set(paths)) == len(paths)
        and all(path and not path.startswith("/") and ".." not in path.split("/") for path in paths)
        and all(0 <= class_id < len(data.class_names) for class_id in data.samples["class_id"])
        and set(data.samples["split"]) <= {"train", "val", "test"}
        and len(pl.Series(data.class_names, dtype=pl.String)) == len(data.class_names)
    )


def usable_or_named(path: Path, read: Callable[[], bool]) -> None:
    """What is read of a file can be used, or one line names the file."""
    try:
        usable = read()
    except CaptError as error:
        usable = str(path) in str(error) and str(error).isprintable()
    assert usable


@given(SPLITS, st.booleans())
def test_any_split_file(
    tmp_path_factory: pytest.TempPathFactory, document: Any, quarantine: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any_split.json"
    path.write_text(json.dumps(document), encoding="utf-8")

    def read() -> bool:
        data = read_split_json(path, Rejects(quarantine))
        check_classes(data, str(path))
        return sound(data)

    usable_or_named(path, read)


CELLS = st.sampled_from(["", "a.jpg", "b.jpg", "../x", "/x", "train", "val", "7", '"', "é", ";"])


@given(
    st.lists(st.sampled_from(["path", "label", "split", "file", "x"]), max_size=4),
    st.lists(st.lists(CELLS, max_size=4), max_size=6),
    st.sampled_from([",", ";", "\t"]),
    st.booleans(),
)
def test_any_table(
    tmp_path_factory: pytest.TempPathFactory,
    header: list[str],
    rows: list[list[str]],
    separator: str,
    quarantine: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text("\n".join(separator.join(row) for row in [header, *rows]), encoding="utf-8")

    def read() -> bool:
        listing = read_tables([path], path.parent, Data(), Rejects(quarantine))
        return sound(to_split(listing, str(path), Data(), Rejects(quarantine)))

    usable_or_named(path, read)


@given(JSON | st.text(max_size=30))
def test_any_class_file(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any_classes.yaml"
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_text(text, encoding="utf-8", errors="replace")
    usable_or_named(path, lambda: all(n.strip() for n in read_class_file(path).names.values()))


@given(st.data())
def test_any_damage_to_a_table_of_images(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = hugging_face_table(folder / "whole.parquet", [0, 1, 0, 1], ["a", "b"]).read_bytes()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged.parquet"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, 8]))])

    def read() -> bool:
        if not holds_images(path):
            return True
        listing = read_image_tables([path], folder, Data(), Rejects(True))
        return sound(to_split(listing, str(path), Data(), Rejects(True)))

    usable_or_named(path, read)
