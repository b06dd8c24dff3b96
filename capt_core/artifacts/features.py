"""Feature matrices as Parquet tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import BASE_TEXT_FEATURES, IMAGE_FEATURES
from capt_core.artifacts.tables import Table, read_table

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


def _read(table: Table, path: Path, expected: Provenance) -> torch.Tensor:
    import torch

    frame = read_table(table, path, expected)
    return torch.from_numpy(frame["feature"].to_numpy().copy())
