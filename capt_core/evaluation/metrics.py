"""Accuracies, and what became of the base model's errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from capt_core.artifacts.schemas import EVALUATION
from capt_core.data.protocol import ALL_CLASSES


@dataclass(frozen=True)
class Metric:
    """A value in percent and the number of images behind it; None when there are none."""

    value: float | None
    n: int


def accuracy(predictions: pl.DataFrame) -> Metric:
    """Share of right answers."""
    return _share(predictions["correct"])


def harmonic_mean(base: float, novel: float) -> float:
    """2 base novel / (base + novel); 0 when both are 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def correction_rate(before: pl.DataFrame, after: pl.DataFrame) -> Metric:
    """Share of the base model's errors that are right now.

    Args:
        before: the base model's predictions (`sample_id`, `correct`).
        after: the method's predictions of at least these images.
    """
    wrong = before.filter(~pl.col("correct"))
    return _share(_joined(wrong, after)["correct_after"])


def broken_rate(before: pl.DataFrame, after: pl.DataFrame) -> Metric:
    """Share of the base model's right answers that are wrong now."""
    right = before.filter(pl.col("correct"))
    return _share(~_joined(right, after)["correct_after"])


def evaluate_predictions(
    before: pl.DataFrame, after: pl.DataFrame, bank: pl.DataFrame, protocol: str
) -> dict[str, Metric]:
    """All metrics of one run.

    With `base_to_novel` each image is scored among the classes of its own half. The test
    correction rate and the broken rate count test images of both halves, those that begin with
    `base` the base half's.

    Args:
        before: the base model's table `predictions`.
        after: the run's table `run_predictions`.
        bank: the table `confusion_bank`.
        protocol: of the data set.
    """
    test = after.filter(pl.col("split") == "test")
    before_test = before.filter(pl.col("split") == "test")
    banked = before.filter(pl.col("sample_id").is_in(bank["sample_id"].implode()))
    corrected = {"bank_correction_rate": correction_rate(banked, after)}
    changed = {
        "test_correction_rate": correction_rate(before_test, after),
        "broken_rate": broken_rate(before_test, after),
    }
    if protocol == ALL_CLASSES:
        return {"accuracy": accuracy(test)} | corrected | changed
    base = accuracy(test.filter(pl.col("group") == "base"))
    novel = accuracy(test.filter(pl.col("group") == "novel"))
    known = base.value is not None and novel.value is not None
    mean = harmonic_mean(base.value or 0.0, novel.value or 0.0) if known else None
    before_base = before_test.filter(pl.col("group") == "base")
    return (
        {
            "base_accuracy": base,
            "novel_accuracy": novel,
            "harmonic_mean": Metric(mean, base.n + novel.n),
        }
        | corrected
        | {
            "base_correction_rate": correction_rate(before_base, after),
            "base_broken_rate": broken_rate(before_base, after),
        }
        | changed
    )


def evaluation_rows(metrics: Mapping[str, Metric], run: Mapping[str, str | int]) -> pl.DataFrame:
    """One row per metric, as in the table `evaluation`; `run` holds the columns all share."""
    return EVALUATION.frame(
        [
            {**run, "metric": name, "value": metric.value, "n": metric.n}
            for name, metric in metrics.items()
        ]
    )


def _joined(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    return before.select("sample_id").join(
        after.select("sample_id", pl.col("correct").alias("correct_after")), on="sample_id"
    )


def _share(flags: pl.Series) -> Metric:
    if flags.is_empty():
        return Metric(None, 0)
    return Metric(100.0 * float(flags.sum()) / len(flags), len(flags))
