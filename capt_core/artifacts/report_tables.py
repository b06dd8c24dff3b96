"""The tables that stand beside the report's page: everything that it shows, for a program to read.

Each is written as Parquet and as CSV of the same name, below ``report/<dataset>/``.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from capt_core.artifacts.columns import (
    CLASS,
    FLOAT,
    GROUP,
    INT,
    PATH,
    SAMPLE,
    TEXT,
    TRUE_CLASS,
    class_columns,
    count,
    share,
)
from capt_core.artifacts.layout import ReportLayout
from capt_core.artifacts.tables import Column, Table


def _table(name: str, description: str, columns: list[Column], key: list[str]) -> Table:
    path = ReportLayout(Path()).table("<dataset>", name)
    return Table(name, "report", str(path), description, columns, key)


def _null(column: Column, when: str) -> Column:
    return Column(
        column.name, column.kind, f"{column.meaning}; null {when}", unit=column.unit, nullable=True
    )


_UNREPAIRED = "where only the base model was run"
_SEED = Column("seed", INT, "of the few-shot draw")
_TAKEN = class_columns("taken_class", "class that images of the true class were taken for")

SUMMARY = _table(
    "summary",
    "One row per half of the classes (one for `all_classes`) and seed: the base model and the "
    "repaired model on the same test images.",
    [
        GROUP,
        _SEED,
        Column("classes", INT, "in the half"),
        count("images", "test images"),
        count("errors_before", "wrong answers of the base model"),
        *(
            _null(count(name, meaning), _UNREPAIRED)
            for name, meaning in (
                ("errors_after", "wrong answers of the repaired model"),
                ("repaired", "wrong before, right now"),
                ("same_error", "wrong before and now, taken for the same class"),
                ("another_error", "wrong before and now, taken for another class"),
                ("newly_wrong", "right before, wrong now"),
            )
        ),
        _null(
            share("p_value", "exact McNemar test that repaired and newly wrong are equally likely"),
            _UNREPAIRED,
        ),
    ],
    ["group", "seed"],
)

TEST_ERRORS = _table(
    "test_errors",
    "One row per seed and test image that the base model or the repaired model takes for another "
    "class.",
    [
        _SEED,
        SAMPLE,
        PATH,
        GROUP,
        *TRUE_CLASS,
        *class_columns("base_prediction", "class that the base model takes the image for"),
        _null(share("base_confidence", "of the base model in its prediction"), "if not known"),
        *(
            _null(column, _UNREPAIRED)
            for column in (
                *class_columns("prediction", "class that the repaired model takes the image for"),
                share("confidence", "of the repaired model in its prediction"),
            )
        ),
        Column(
            "outcome",
            TEXT,
            "`repaired`, `same_error`, `another_error`, `newly_wrong`; `error` where only the base "
            "model was run",
        ),
        _null(
            Column(
                "representative_path",
                TEXT,
                "the misclassified training image that represents this confusion best: of the "
                "same two classes, most similar to the image",
            ),
            "where the bank holds none",
        ),
    ],
    ["seed", "sample_id"],
)

PAIR_RESULTS = _table(
    "pair_results",
    "One row per class and class that its test images were taken for by the base model or the "
    "repaired model; most frequent before first. Numbers of images are means over seeds: "
    "`before` is the sum of `repaired`, `same_error` and `another_error`, `after` that of "
    "`same_error`, `newly_wrong` and `moved_here`.",
    [
        GROUP,
        *TRUE_CLASS,
        *_TAKEN,
        count("images", "test images of the true class"),
        Column("before", FLOAT, "taken for the class by the base model", unit="images"),
        *(
            _null(Column(name, FLOAT, meaning, unit="images"), _UNREPAIRED)
            for name, meaning in (
                ("after", "taken for the class by the repaired model"),
                ("repaired", "of `before`, right now"),
                ("same_error", "of `before`, taken for the same class now"),
                ("another_error", "of `before`, taken for a third class now"),
                ("newly_wrong", "of `after`, right before"),
                ("moved_here", "of `after`, taken for a third class before"),
            )
        ),
        _null(
            Column("moved_to", TEXT, "class that most of `another_error` are taken for now"),
            "where there are none",
        ),
    ],
    ["true_class_id", "taken_class_id"],
)

CLASS_RESULTS = _table(
    "class_results",
    "One row per class: accuracy on its test images, mean over seeds, with 95 % Wilson intervals "
    "of the number of images.",
    [
        GROUP,
        *CLASS,
        count("images", "test images"),
        *(
            _null(share(name, meaning), "without test images")
            for name, meaning in (
                ("accuracy_before", "of the base model"),
                ("accuracy_before_low", "lower end of its interval"),
                ("accuracy_before_high", "upper end"),
            )
        ),
        *(
            _null(share(name, meaning), _UNREPAIRED)
            for name, meaning in (
                ("accuracy_after", "of the repaired model"),
                ("accuracy_after_low", "lower end of its interval"),
                ("accuracy_after_high", "upper end"),
            )
        ),
        Column(
            "mostly_taken_for",
            pl.List(pl.String),
            "up to two classes that its images are taken for most often by the repaired model, or "
            "the base model where there is no other",
        ),
        Column("taken_for_images", pl.List(pl.Float64), "how many images each", unit="images"),
    ],
    ["class_id"],
)

SUSPECTED_LABELS = _table(
    "suspected_labels",
    "One row per image whose label is worth a look, most suspicious first: by confident learning "
    "on predictions for images that the predicting model was not fitted on.",
    [
        SAMPLE,
        PATH,
        Column("split", TEXT, "`train`, `val` or `test`"),
        *class_columns("label", "class that the image is filed under"),
        *class_columns("suggested", "class that it rather looks like"),
        Column("kind", TEXT, "`label`: probably filed wrongly; `ambiguous`: between both classes"),
        share("label_probability", "of the class it is filed under"),
        share("suggested_probability", "of the suggested class"),
    ],
    ["sample_id"],
)

NEXT_STEPS = _table(
    "next_steps",
    "One row per advice on a pair of classes, worst pair first.",
    [
        Column("position", INT, "from 1"),
        *TRUE_CLASS,
        *_TAKEN,
        Column(
            "action",
            TEXT,
            "`check_labels`, `rename_classes`, `choose_model`, `repair`, `write_prompts`, "
            "`add_photographs` or `nothing`",
        ),
        Column("reason", TEXT, "what was found, in words and numbers"),
        Column("command", TEXT, "what to run; empty where nothing is to be done"),
    ],
    ["position"],
)

RELIABILITY = _table(
    "reliability",
    "One row per model and bin of confidence, over test images of all seeds.",
    [
        Column("model", TEXT, "`base`, `repaired`, or `calibrated` (repaired, at the temperature)"),
        share("lower", "lower end of the bin"),
        share("upper", "upper end of the bin"),
        count("images", "test images in the bin"),
        share("confidence", "their mean confidence"),
        share("accuracy", "how many of them are right"),
    ],
    ["model", "lower"],
)

PRECISION = _table(
    "precision",
    "One row per model and precision: the confidence from which on answers are that precise among "
    "the test images of the first seed.",
    [
        Column("model", TEXT, "as in `reliability`"),
        share("precision", "aimed at"),
        _null(share("threshold", "least confidence"), "where it cannot be reached"),
        share("coverage", "test images that are answered at least that surely"),
    ],
    ["model", "precision"],
)

IMAGE_MAP = _table(
    "image_map",
    "One row per test image: its place in a two-dimensional projection of the frozen features.",
    [
        SAMPLE,
        PATH,
        *CLASS,
        Column("x", FLOAT, "from 0 to 1"),
        Column("y", FLOAT, "from 0 to 1"),
    ],
    ["sample_id"],
)

RUN_CHANGES = _table(
    "run_changes",
    "One row per test image that two runs of one's own (`--compare`) classify differently, or that "
    "only one of them has.",
    [
        PATH,
        Column("true_class", TEXT, "class that the image shows"),
        _null(Column("before", TEXT, "prediction of the other run"), "where it has none"),
        _null(share("before_confidence", "of the other run"), "where it has none"),
        _null(Column("now", TEXT, "prediction of this run"), "where it has none"),
        _null(share("now_confidence", "of this run"), "where it has none"),
        Column(
            "outcome",
            TEXT,
            "`repaired`, `another_error`, `newly_wrong`; `added` or `removed` where one run lacks "
            "the image",
        ),
    ],
    ["path"],
)

REPORT_TABLES = (
    SUMMARY,
    TEST_ERRORS,
    PAIR_RESULTS,
    CLASS_RESULTS,
    SUSPECTED_LABELS,
    NEXT_STEPS,
    RELIABILITY,
    PRECISION,
    IMAGE_MAP,
    RUN_CHANGES,
)
"""Every table above, in this order."""
