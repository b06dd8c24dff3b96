"""A small data set for the report: four classes, predictions before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from capt_core.artifacts.schemas import PREDICTIONS, RESULTS, TRAINING_LOG
from capt_core.artifacts.tables import Table, schema_problem

NAMES = ("cat", "<b>fox</b>", "oak", "elm")
GROUPS = ("base", "base", "novel", "novel")


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


def predictions(answers: Sequence[tuple[int, str, int, int]]) -> pl.DataFrame:
    """Table `predictions` from (sample id, split, true class, predicted class)."""
    rows = [
        {
            "sample_id": sample_id,
            "path": f"{sample_id}.png",
            "split": split,
            "group": GROUPS[true],
            "true_class_id": true,
            "true_class": NAMES[true],
            "pseudo_label_id": predicted,
            "pseudo_label": NAMES[predicted],
            "correct": true == predicted,
            "confidence": 0.75,
            "true_confidence": 0.75 if true == predicted else 0.125,
            "top_class_ids": [predicted],
            "top_classes": [NAMES[predicted]],
            "top_confidences": [0.75],
        }
        for sample_id, split, true, predicted in answers
    ]
    return table(PREDICTIONS, rows)


TRAIN = [(0, "train", 0, 1), (1, "train", 0, 1), (2, "train", 1, 1), (3, "train", 0, 0)]
TEST = [
    (10, "test", 0, 1),
    (11, "test", 0, 1),
    (12, "test", 0, 0),
    (13, "test", 0, 0),
    (14, "test", 1, 0),
    (15, "test", 1, 1),
    (16, "test", 2, 3),
    (17, "test", 2, 2),
    (18, "test", 3, 3),
]
TEACHER = TRAIN + TEST
# Of the base half's three errors two are corrected; of its three right answers one is broken.
AFTER = [*TRAIN, *TEST]
AFTER[len(TRAIN)] = (10, "test", 0, 0)
AFTER[len(TRAIN) + 4] = (14, "test", 1, 1)
AFTER[len(TRAIN) + 5] = (15, "test", 1, 0)


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
