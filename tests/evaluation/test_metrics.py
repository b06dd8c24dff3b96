"""Metrics, counted by hand."""

from __future__ import annotations

import polars as pl
import pytest

from capt_core.data.protocol import ALL_CLASSES, BASE_TO_NOVEL
from capt_core.evaluation.metrics import (
    Metric,
    accuracy,
    broken_rate,
    correction_rate,
    evaluate_predictions,
    evaluation_rows,
    harmonic_mean,
)


def predictions(correct: dict[int, bool]) -> pl.DataFrame:
    """Samples 0-3: base test images, 4-5: novel test images, 6-7: base training images."""
    return pl.DataFrame(
        {
            "sample_id": list(correct),
            "split": ["train" if number >= 6 else "test" for number in correct],
            "group": ["novel" if number in (4, 5) else "base" for number in correct],
            "correct": list(correct.values()),
        }
    )


BEFORE = predictions(dict(enumerate([True, True, False, False, True, False, False, False])))
AFTER = predictions(dict(enumerate([True, False, True, False, True, True, True, False])))


@pytest.mark.parametrize(
    ("base", "novel", "mean"),
    [(76.47, 67.88, 71.92), (82.28, 75.14, 78.55), (60, 30, 40), (0, 80, 0), (0, 0, 0)],
)
def test_harmonic_mean(base: float, novel: float, mean: float) -> None:
    assert harmonic_mean(base, novel) == pytest.approx(mean, abs=0.005)


def test_rates_look_at_errors_and_at_right_answers() -> None:
    assert accuracy(BEFORE) == Metric(37.5, 8)
    assert correction_rate(BEFORE, AFTER) == Metric(60.0, 5)
    assert broken_rate(BEFORE, AFTER) == Metric(pytest.approx(100 / 3), 3)  # type: ignore[arg-type]


def test_all_metrics_of_a_run() -> None:
    found = evaluate_predictions(BEFORE, AFTER, pl.DataFrame({"sample_id": [6, 7]}), BASE_TO_NOVEL)
    assert found["base_accuracy"] == Metric(50.0, 4)
    assert found["novel_accuracy"] == Metric(100.0, 2)
    assert found["harmonic_mean"].value == pytest.approx(200 / 3)
    assert found["harmonic_mean"].n == 6
    assert found["bank_correction_rate"] == Metric(50.0, 2)
    # Test images only: 2, 3 and 5 were wrong; 0, 1 and 4 were right.
    assert found["test_correction_rate"].value == pytest.approx(200 / 3)
    assert found["broken_rate"].value == pytest.approx(100 / 3)


def test_with_all_classes_there_are_no_halves() -> None:
    found = evaluate_predictions(BEFORE, AFTER, pl.DataFrame({"sample_id": [6, 7]}), ALL_CLASSES)
    assert list(found) == [
        "accuracy",
        "bank_correction_rate",
        "test_correction_rate",
        "broken_rate",
    ]
    assert found["accuracy"] == Metric(pytest.approx(400 / 6), 6)  # type: ignore[arg-type]


def test_nothing_to_count_is_no_number() -> None:
    empty_bank = pl.DataFrame({"sample_id": []}, schema={"sample_id": pl.Int64})
    found = evaluate_predictions(BEFORE, AFTER, empty_bank, BASE_TO_NOVEL)
    assert found["bank_correction_rate"] == Metric(None, 0)
    only_base = AFTER.filter(group="base")
    found = evaluate_predictions(BEFORE, only_base, empty_bank, BASE_TO_NOVEL)
    assert found["novel_accuracy"] == Metric(None, 0)
    assert found["harmonic_mean"].value is None


def test_rows_of_the_results_table() -> None:
    run: dict[str, str | int] = {
        "dataset": "dtd",
        "method": "capt",
        "variant": "default",
        "sees": "base only",
        "protocol": BASE_TO_NOVEL,
        "seed": 2,
    }
    rows = evaluation_rows({"base_accuracy": Metric(None, 0)}, run)
    assert rows.rows() == [(*run.values(), "base_accuracy", None, 0)]
