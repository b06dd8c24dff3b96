"""Calibration: temperature, reliability and thresholds, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capt_core.evaluation.calibration import (
    LEAST_TEMPERATURE,
    MOST_TEMPERATURE,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    threshold_for_precision,
)


def test_loss_is_that_of_the_softmax() -> None:
    # exp(2/2) : exp(0) = e : 1 and the true class is the second.
    loss = negative_log_likelihood([[2.0, 0.0]], [1], temperature=2)
    assert loss == pytest.approx(math.log(1 + math.e))


def test_temperature_makes_the_mean_confidence_the_accuracy() -> None:
    # Three of four are right. With two classes and one margin m the optimum has
    # sigmoid(m / T) = 3/4, so T = m / ln 3.
    logits = torch.tensor([[6.0, 0.0]] * 4)
    fitted = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))
    assert fitted == pytest.approx(6 / math.log(3), rel=1e-4)


def test_temperature_of_logits_scaled_is_scaled() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200, 5))
    labels = np.array([generator.choice(5, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    plain = fit_temperature(logits, labels)
    assert plain == pytest.approx(1, abs=0.2)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * plain, rel=1e-3)


def test_temperature_stays_within_its_bounds() -> None:
    right = fit_temperature([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    wrong = fit_temperature([[1.0, 0.0], [0.0, 1.0]], [1, 0])
    assert right == pytest.approx(LEAST_TEMPERATURE, rel=1e-3)
    assert wrong == pytest.approx(MOST_TEMPERATURE, rel=1e-3)
    assert fit_temperature([[4.0], [1.0]], [0, 0]) == 1


@pytest.mark.parametrize(("logits", "labels"), [(np.zeros((0, 3)), []), ([[1.0, 2.0]], [0, 1])])
def test_temperature_needs_images_and_their_labels(logits: object, labels: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        fit_temperature(logits, labels)  # type: ignore[arg-type]


def test_reliability_bins_by_hand() -> None:
    # Borders count below: 0.5 is in (0, 0.5], 1 in (0.5, 1], and 0 in the first.
    table = reliability([0.0, 0.5, 0.6, 0.8, 1.0], [False, True, True, False, True], bins=2)
    assert table.to_dicts() == [
        {"lower": 0.0, "upper": 0.5, "images": 2, "confidence": 0.25, "accuracy": 0.5},
        {
            "lower": 0.5,
            "upper": 1.0,
            "images": 3,
            "confidence": pytest.approx(0.8),
            "accuracy": pytest.approx(2 / 3),
        },
    ]


def test_reliability_keeps_empty_bins() -> None:
    table = reliability(pl.Series([0.95]), pl.Series([True]))
    assert len(table) == 10
    assert table["images"].to_list() == [0] * 9 + [1]
    assert table["accuracy"].null_count() == table["confidence"].null_count() == 9
    none = reliability([], [])
    assert none.schema == table.schema
    assert none["images"].sum() == 0


def test_calibration_error_by_hand() -> None:
    # Two bins: |0.5 - 0.25| of 2 images and |2/3 - 0.8| of 3.
    error = expected_calibration_error(
        [0.0, 0.5, 0.6, 0.8, 1.0], [False, True, True, False, True], bins=2
    )
    assert error == pytest.approx((2 * 0.25 + 3 * (0.8 - 2 / 3)) / 5)
    assert expected_calibration_error([], []) is None
    assert expected_calibration_error([1.0, 1.0], [True, True]) == 0


def test_threshold_is_the_lowest_that_reaches_the_precision() -> None:
    # From above: 2/3, 3/4, 3/5, 4/6, 4/7 by (right + 1) / (n + 2).
    confidences, correct = [0.9, 0.8, 0.7, 0.6, 0.5], [True, True, False, True, False]
    assert threshold_for_precision(confidences, correct, 0.75) == 0.8
    assert threshold_for_precision(confidences, correct, 0.65) == 0.6
    assert threshold_for_precision(confidences, correct, 0.5) == 0.5
    assert threshold_for_precision(confidences, correct, 0.8) is None


def test_images_of_one_confidence_stand_or_fall_together() -> None:
    # Of the three at 0.8, whose order means nothing, two are wrong: (2 + 1) / (4 + 2).
    for correct in ([True, True, False, False], [True, False, False, True]):
        assert threshold_for_precision([0.9, 0.8, 0.8, 0.8], correct, 0.6) == 0.9
        assert threshold_for_precision([0.9, 0.8, 0.8, 0.8], correct, 0.5) == 0.8


@pytest.mark.parametrize(("images", "wrong", "reached"), [(17, 0, 0), (18, 0, 1), (37, 1, 0)])
def test_few_images_prove_no_precision(images: int, wrong: int, reached: int) -> None:
    correct = [False] * wrong + [True] * (images - wrong)
    found = threshold_for_precision([0.9] * images, correct, 0.95)
    assert (found is not None) == bool(reached)


def test_no_images_give_no_threshold() -> None:
    assert threshold_for_precision([], [], 0.5) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60), st.floats(0.1, 0.99))
def test_threshold_keeps_its_promise(rows: list[tuple[float, bool]], precision: float) -> None:
    confidences, correct = [row[0] for row in rows], [row[1] for row in rows]
    estimates = {
        value: (sum(right for score, right in rows if score >= value) + 1)
        / (sum(score >= value for score in confidences) + 2)
        for value in confidences
    }
    reaching = [value for value, share in estimates.items() if share >= precision - 1e-12]
    assert threshold_for_precision(confidences, correct, precision) == min(reaching, default=None)
