"""A small data set for the report: four classes, predictions before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from capt_core.artifacts.schemas import RESULTS, TRAINING_LOG
from capt_core.artifacts.tables import Table, schema_problem


def table(schema: Table, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=dict(schema.columns))
    assert schema_problem(schema, frame) is None
    return frame


def results(values: Sequence[tuple[str, str, int, str, float | None]]) -> pl.DataFrame:
    """Table `results` from (dataset, method, seed, metric, value)."""
    rows = [
        {
            "dataset": dataset,
            "method": method,
            "variant": "",
            "sees": "base only",
            "protocol": "base_to_novel",
            "seed": seed,
            "metric": metric,
            "value": value,
            "n": 0 if value is None else 100,
        }
        for dataset, method, seed, metric, value in values
    ]
    return table(RESULTS, rows)


def training_log(steps: int) -> pl.DataFrame:
    columns = [name for name in TRAINING_LOG.columns if name not in ("step", "epoch", "rows")]
    rows = [
        {"step": step, "epoch": 1, "rows": 4} | dict.fromkeys(columns, 1 / step)
        for step in range(1, steps + 1)
    ]
    return table(TRAINING_LOG, rows)


def pets_results() -> pl.DataFrame:
    return results(
        [
            ("pets", "clip", 1, "base_accuracy", 50.0),
            ("pets", "clip", 1, "novel_accuracy", 66.0),
            ("pets", "clip", 1, "harmonic_mean", 56.8966),
            ("pets", "clip", 1, "bank_correction_rate", 0.0),
            ("pets", "capt", 1, "base_accuracy", 60.0),
            ("pets", "capt", 1, "novel_accuracy", 64.5),
            ("pets", "capt", 1, "harmonic_mean", 62.1687),
            ("pets", "capt", 1, "bank_correction_rate", None),
            ("pets", "capt", 1, "broken_rate", 33.25),
        ]
    )
