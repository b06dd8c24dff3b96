"""The comparison that CI trusts can say no."""

from __future__ import annotations

import polars as pl
import pytest

from benchmarks.check_results import differences, table_differences


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


def test_tables_of_all_methods_differ_by_their_means_and_what_they_say() -> None:
    committed = pl.DataFrame(
        {
            "dataset": ["proctex"],
            "row": ["coop"],
            "method": ["coop"],
            "block": ["inductive"],
            "sees": ["base only"],
            "parameters": [512],
            "seeds": [3],
            "seconds": [4.0],
            **{name: [50.0] for name in ("base", "novel", "hm", "corrected", "broken")},
        }
    )
    alike = committed.with_columns(seconds=9.0, base=51.9, broken=57.9)
    assert table_differences(alike, committed) == []
    for change in ({"base": 52.1}, {"broken": 58.1}, {"seeds": 2}):
        assert table_differences(committed.with_columns(**change), committed) != []
    other = committed.with_columns(block=pl.lit("transductive"), parameters=513)
    assert len(table_differences(other, committed)) == 2
    assert len(table_differences(committed.clear(), committed)) == 5
