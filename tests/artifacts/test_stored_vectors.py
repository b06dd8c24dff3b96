"""Vectors are read from where they lie in a file, whatever its layout is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt_core.artifacts import stored_vectors
from capt_core.artifacts.features import ImageFeatures, feature_groups
from capt_core.artifacts.parquet_pages import find_pages
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import IMAGE_FEATURES
from capt_core.artifacts.stored_vectors import StoredVectors
from capt_core.artifacts.table_blocks import write_groups
from capt_core.errors import CaptError

ORIGIN = Provenance("dtd", "0123456789abcdef")


def frame_of(count: int, width: int = 6) -> pl.DataFrame:
    values = np.random.default_rng(count).standard_normal((count, width)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return pl.DataFrame(
        [
            pl.Series("sample_id", range(count), dtype=pl.Int64),
            pl.Series("feature", values, dtype=pl.Array(pl.Float32, width)),
        ]
    )


def by_pyarrow(frame: pl.DataFrame, path: Path, **options: Any) -> None:
    pq.write_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()), path, **options)


@pytest.fixture(scope="module")
def paged(tmp_path_factory: pytest.TempPathFactory) -> StoredVectors:
    path = tmp_path_factory.mktemp("paged") / "t.parquet"
    by_pyarrow(frame_of(400), path, compression="none", use_dictionary=False, data_page_size=600)
    return StoredVectors(path, "feature")


@given(
    st.lists(st.integers(0, 399), max_size=40),
    *(st.booleans(), st.integers(1, 70), st.integers(1, 9)),
)
def test_any_rows_in_any_order(
    paged: StoredVectors, ids: list[int], ascending: bool, span: int, gap: int
) -> None:
    wanted = np.array(sorted(ids) if ascending else ids, dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_vectors, "_SPAN", span)
        patch.setattr(stored_vectors, "_GAP", gap)
        found = paged.rows(wanted)
    assert np.array_equal(found, frame_of(400)["feature"].to_numpy()[wanted])


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({"compression": "none", "use_dictionary": False}, True),
        ({"compression": "none", "use_dictionary": False, "row_group_size": 150}, True),
        ({"compression": "none", "use_dictionary": False, "data_page_size": 600}, True),
        ({"compression": "none", "use_dictionary": False, "data_page_version": "2.0"}, False),
        ({"compression": "zstd", "row_group_size": 150}, False),
        ({"compression": "none", "use_dictionary": True}, False),
    ],
)
def test_rows_of_any_layout(tmp_path: Path, options: dict[str, Any], plain: bool) -> None:
    frame, path = frame_of(400), tmp_path / "t.parquet"
    by_pyarrow(frame, path, **options)
    assert (find_pages(path, "feature") is not None) == plain
    values, stored = frame["feature"].to_numpy(), StoredVectors(path, "feature")
    assert (len(stored), stored.width) == (400, 6)
    scattered = [*range(0, 90, 3), 399, 151]
    for ids in ([], [399], [7, 7, 0], [5, 5, 7], range(400), range(100, 300), scattered):
        wanted = np.array(list(ids), dtype=np.int64)
        assert np.array_equal(stored.rows(wanted), values[wanted])
    for beyond in (400, -1):
        with pytest.raises(IndexError, match="0 to 399"):
            stored.rows(np.array([0, beyond]))


def test_missing_values_are_not_taken_for_others(tmp_path: Path) -> None:
    vectors: list[list[float | None]] = [[0.6, 0.8], [None, 1.0], [1.0, 0.0]]
    frame = pl.DataFrame({"feature": pl.Series(vectors, dtype=pl.Array(pl.Float32, 2))})
    by_pyarrow(frame, tmp_path / "t.parquet", compression="none", use_dictionary=False)
    assert find_pages(tmp_path / "t.parquet", "feature") is None


def test_features_come_in_groups(tmp_path: Path) -> None:
    frame, path = frame_of(100), tmp_path / "image_features.parquet"
    write_groups(IMAGE_FEATURES, frame.iter_slices(30), path, ORIGIN)
    assert find_pages(path, "feature") is not None
    features = ImageFeatures(path, ORIGIN)
    groups = list(feature_groups(features, rows=40))
    assert [len(ids) for ids, _ in groups] == [33, 33, 34]
    assert pl.concat([ids for ids, _ in groups]).to_list() == list(range(100))
    read = np.concatenate([vectors.numpy() for _, vectors in groups])
    assert np.array_equal(read, frame["feature"].to_numpy())


def test_features_that_are_none_are_refused(tmp_path: Path) -> None:
    path, frame = tmp_path / "image_features.parquet", frame_of(5)
    long = frame.with_columns(
        (pl.col("feature").cast(pl.List(pl.Float32)).list.eval(pl.element() * 2)).list.to_array(6)
    )
    write_groups(IMAGE_FEATURES, [long], path, ORIGIN)
    with pytest.raises(CaptError, match="not of unit length"):
        ImageFeatures(path, ORIGIN).rows(pl.Series([1]))
    write_groups(IMAGE_FEATURES, [frame[1:]], path, ORIGIN)
    with pytest.raises(CaptError, match="does not count the rows from 0"):
        ImageFeatures(path, ORIGIN)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(CaptError, match="damaged"):
        ImageFeatures(path, ORIGIN)
