"""Feature matrices as Parquet tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import polars as pl

from capt_core.advice import Remedy, run_stage
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import BASE_TEXT_FEATURES, IMAGE_FEATURES
from capt_core.artifacts.stored_vectors import StoredVectors
from capt_core.artifacts.table_blocks import BLOCK_ROWS, open_record, spans
from capt_core.artifacts.tables import Table, parsing, read_table, vector_problem
from capt_core.errors import CaptError

if TYPE_CHECKING:
    import torch


def feature_column(features: torch.Tensor) -> pl.Series:
    """Features [N, d] as a column of float32 vectors."""
    return pl.Series("feature", features.numpy(), dtype=pl.Array(pl.Float32, features.shape[1]))


def read_image_features(path: Path, expected: Provenance) -> torch.Tensor:
    """Image features [N, d]; row i belongs to sample id i. They are in memory once, not twice.

    Raises:
        CaptError: as `read_table`.
    """
    stored = ImageFeatures(path, expected)
    return stored.rows(pl.int_range(len(stored), eager=True))


class Features(Protocol):
    """Features of samples, by sample id, wherever they are kept."""

    @property
    def width(self) -> int:
        """Numbers of a feature, d."""

    def rows(self, sample_ids: pl.Series) -> torch.Tensor:
        """Features [n, d] of some samples, unit length, in their order."""


@dataclass(frozen=True)
class HeldFeatures:
    """Features [N, d] of all samples in memory, row i of sample id i."""

    values: torch.Tensor

    @property
    def width(self) -> int:
        return self.values.shape[1]

    def rows(self, sample_ids: pl.Series) -> torch.Tensor:
        return self.values[sample_ids.to_list()]


class ImageFeatures:
    """Image features of a data set on disk, row i of sample id i; a few at a time are in memory.

    Args:
        path: the table `image_features`.
        expected: data set and backbone that the reader works with.

    Raises:
        CaptError: as `read_table`, but for the vectors, which are checked as they are read.
    """

    def __init__(self, path: Path, expected: Provenance) -> None:
        self._path = path
        self._remedy = run_stage(IMAGE_FEATURES.stage, path, expected.dataset)
        open_record(IMAGE_FEATURES, path, expected, self._remedy)
        ids = pl.read_parquet(path, columns=["sample_id"], glob=False)["sample_id"]
        _check_counting(IMAGE_FEATURES, path, ids, self._remedy)
        with parsing(path, self._remedy):
            self._vectors = StoredVectors(path, "feature")

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def width(self) -> int:
        return self._vectors.width

    def rows(self, sample_ids: pl.Series) -> torch.Tensor:
        """Features [n, d] of some samples, unit length, in their order.

        Raises:
            CaptError: a vector is not finite or not of unit length.
        """
        import torch

        with parsing(self._path, self._remedy):
            found = self._vectors.rows(sample_ids.to_numpy())
        if problem := vector_problem(IMAGE_FEATURES.declared[-1], found):
            raise CaptError(f"{self._path}: {problem}; {self._remedy}")
        return torch.from_numpy(found)


def feature_groups(
    features: ImageFeatures, rows: int = BLOCK_ROWS
) -> Iterator[tuple[pl.Series, torch.Tensor]]:
    """All sample ids with their features [n, d], in order, at most `rows` at a time."""
    for span in spans(len(features), rows):
        ids = pl.Series("sample_id", span, dtype=pl.Int64)
        yield ids, features.rows(ids)


def read_base_text_features(path: Path, expected: Provenance) -> torch.Tensor:
    """The base model's text features [C, d]; row i belongs to class id i.

    Raises:
        CaptError: as `read_table`.
    """
    return _read(BASE_TEXT_FEATURES, path, expected)


def read_prompt_centres(path: Path, expected: Provenance) -> dict[str, torch.Tensor]:
    """Centres of `commonality` and `difference` prompts, each [M, d] of unit length.

    Raises:
        CaptError: as `read_tensors`, or for tensors of other names, shapes or lengths.
    """
    from capt_core.artifacts.tensors import read_tensors

    centres = read_tensors(path, "cluster-prompts", expected).tensors
    sound = centres.keys() == {"commonality", "difference"} and all(
        value.ndim == 2 and len(value) > 0 and value.is_floating_point()
        for value in centres.values()
    )
    if not sound or len({value.shape[1] for value in centres.values()}) != 1:
        raise CaptError(
            f"{path}: holds no prompt centres; "
            f"{run_stage('cluster-prompts', path, expected.dataset)}"
        )
    return centres


def _read(table: Table, path: Path, expected: Provenance) -> torch.Tensor:
    import torch

    frame = read_table(table, path, expected)
    remedy = run_stage(table.stage, path, expected.dataset)
    _check_counting(table, path, frame[table.key[0]], remedy)
    return torch.from_numpy(frame["feature"].to_numpy().copy())


def _check_counting(table: Table, path: Path, ids: pl.Series, remedy: str | Remedy) -> None:
    """Refuse ids that are not the row numbers.

    Raises:
        CaptError: names the file.
    """
    if not ids.equals(pl.int_range(len(ids), eager=True)):
        raise CaptError(f"{path}: {table.key[0]} does not count the rows from 0; {remedy}")
