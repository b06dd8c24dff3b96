"""Prediction tables: every image competes among the classes of its own half."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from capt_core.artifacts.schemas import PREDICTIONS
from capt_core.artifacts.tables import schema_problem
from capt_core.evaluation.predictions import prediction_table
from tests.toys import toy_dataset


def test_halves_compete_apart_and_rows_are_sorted() -> None:
    dataset = toy_dataset([3, 0], 4)  # base: c0, c1; novel: c2, c3
    texts = torch.eye(4)
    # Sample 0 shows c3 and looks most like c0, which is no novel class; then like c2.
    images = torch.tensor([[0.0, 0.6, 0.0, 0.8], [0.8, 0.0, 0.6, 0.0]])
    table = prediction_table(dataset, pl.Series([1, 0]), images @ texts.T, top_classes=5)
    assert schema_problem(PREDICTIONS, table) is None
    assert table["sample_id"].to_list() == [0, 1]
    assert table["group"].to_list() == ["novel", "base"]
    assert table["pseudo_label_id"].to_list() == [2, 1]
    assert table["correct"].to_list() == [False, False]
    assert table["top_class_ids"].to_list() == [[2, 3], [1, 0]]
    expected = 1 / (1 + torch.tensor(0.6).neg().exp().item())
    assert table["confidence"].to_list() == pytest.approx([expected, expected], abs=1e-6)
    assert table["true_confidence"].to_list() == pytest.approx([1 - expected] * 2, abs=1e-6)
