"""Feature matrices as Parquet tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from capt_core.advice import run_stage
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import BASE_TEXT_FEATURES, IMAGE_FEATURES
from capt_core.artifacts.tables import Table, read_table
from capt_core.errors import CaptError

if TYPE_CHECKING:
    import torch


def feature_column(features: torch.Tensor) -> pl.Series:
    """Features [N, d] as a column of float32 vectors."""
    return pl.Series("feature", features.numpy(), dtype=pl.Array(pl.Float32, features.shape[1]))


def read_image_features(path: Path, expected: Provenance) -> torch.Tensor:
    """Image features [N, d]; row i belongs to sample id i.

    Raises:
        CaptError: as `read_table`.
    """
    return _read(IMAGE_FEATURES, path, expected)


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
    if not frame[table.key[0]].equals(pl.Series(range(len(frame)), dtype=pl.Int64)):
        raise CaptError(
            f"{path}: {table.key[0]} does not count the rows from 0; "
            f"{run_stage(table.stage, path, expected.dataset)}"
        )
    return torch.from_numpy(frame["feature"].to_numpy().copy())
