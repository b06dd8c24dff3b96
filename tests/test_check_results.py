"""The comparison that CI trusts can say no."""

from __future__ import annotations

import polars as pl
import pytest

from benchmarks.check_results import differences


def table(metric: str, value: float | None, n: int = 100) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "dataset": ["proctex"],
            "method": ["capt"],
            "variant": ["default"],
            "protocol": ["base_to_novel"],
            "seed": [1],
            "metric": [metric],
            "value": pl.Series([value], dtype=pl.Float64),
            "n": [n],
        }
    )


@pytest.mark.parametrize(
    ("metric", "fresh", "found"),
    [
        ("base_accuracy", 71.9, 0),
        ("base_accuracy", 72.1, 1),
        ("broken_rate", 77.9, 0),
        ("broken_rate", 78.1, 1),
        ("broken_rate", None, 1),
    ],
)
def test_tolerance(metric: str, fresh: float | None, found: int) -> None:
    assert len(differences(table(metric, fresh), table(metric, 70.0))) == found


def test_missing_new_and_differently_counted_rows() -> None:
    accuracy = table("base_accuracy", 70.0)
    assert differences(accuracy.clear(), accuracy) != []
    assert differences(accuracy, accuracy.clear()) != []
    assert differences(table("base_accuracy", 70.0, n=99), accuracy) != []
    nothing = table("broken_rate", None, n=0)
    assert differences(nothing, nothing) == []
