"""How far the models' confidences can be believed, from their predictions for test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from capt_core.artifacts.report_tables import PRECISION, RELIABILITY
from capt_core.evaluation.calibration import (
    expected_calibration_error,
    reliability,
    threshold_for_precision,
)

PRECISIONS = (0.8, 0.9, 0.95, 0.99)

BINS = 10
"""Of the curve, and of the calibration error, which so follows from the table `reliability`."""

_CALIBRATED = "calibrated_confidence"


@dataclass(frozen=True)
class Confidences:
    """Tables `reliability` and `precision`, and ECE in percent by model."""

    reliability: pl.DataFrame
    precision: pl.DataFrame
    calibration: Mapping[str, float]


def confidences(before: Sequence[pl.DataFrame], after: Sequence[pl.DataFrame]) -> Confidences:
    """Judge the confidences: curves of all seeds together, thresholds of the first.

    Args:
        before: tables `predictions` of the base model, of the images that are counted, by seed.
        after: the same of the repaired model; empty without one.

    Returns:
        Models `base`, `repaired` and `calibrated`, as far as their confidences are known.
    """
    curves, levels, errors = [], [], {}
    for model, frames, column in (
        ("base", before, "confidence"),
        ("repaired", after, "confidence"),
        ("calibrated", after, _CALIBRATED),
    ):
        answers = _answers(frames, column)
        if answers.is_empty():
            continue
        sure, right = answers[column], answers["correct"]
        named = pl.lit(model).alias("model")
        curve = reliability(sure, right, BINS).filter(pl.col("images") > 0).with_columns(named)
        curves.append(RELIABILITY.select(curve))
        error = expected_calibration_error(sure, right, BINS)
        if error is not None:
            errors[model] = 100 * error
        # Draws do not add images: pooled, each would speak for itself several times.
        first = _answers(frames[:1], column)
        sure, right = first[column], first["correct"]
        for precision in PRECISIONS:
            least = threshold_for_precision(sure, right, precision)
            share = 0.0 if least is None else float((sure >= least).sum()) / len(sure)
            levels.append(
                {"model": model, "precision": precision, "threshold": least, "coverage": share}
            )
    return Confidences(pl.concat([RELIABILITY.frame(), *curves]), PRECISION.frame(levels), errors)


def _answers(frames: Sequence[pl.DataFrame], column: str) -> pl.DataFrame:
    """Known confidences of all frames, with whether the answer is right."""
    known = [frame.select(column, "correct") for frame in frames if column in frame.columns]
    empty = pl.DataFrame(schema={column: pl.Float64, "correct": pl.Boolean})
    return pl.concat([empty, *known]).drop_nulls()
