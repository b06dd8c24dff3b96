"""Columns that several tables share, and those of the training log that CAPT alone fills."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from capt_core.artifacts.tables import UNIT_LENGTH, Column, vector

INT = pl.Int64()
TEXT = pl.String()
FLOAT = pl.Float64()


def class_columns(name: str, meaning: str) -> tuple[Column, Column]:
    """A class by id, with its name beside it, so that a reader needs no codebook."""
    named = "class_name" if name == "class" else name
    return Column(f"{name}_id", INT, meaning), Column(named, TEXT, "its name")


def count(name: str, meaning: str) -> Column:
    """A number of images."""
    return Column(name, INT, meaning, unit="images")


def share(name: str, meaning: str) -> Column:
    """A part of something, from 0 to 1."""
    return Column(name, FLOAT, meaning, unit="share")


def cosine(name: str, meaning: str) -> Column:
    """A cosine, from -1 to 1."""
    return Column(name, FLOAT, meaning, unit="cosine")


def or_null(column: Column) -> Column:
    """A column that is null where imported predictions do not tell."""
    meaning = f"{column.meaning}; null where imported predictions do not tell"
    return replace(column, meaning=meaning, nullable=True)


SAMPLE = Column("sample_id", INT, "the image, by its row number in `samples`, from 0")
PATH = Column(
    "path",
    TEXT,
    "image file, relative to the data set's image folder (`<dataset>/images/` here for `proctex`); "
    "`<file>.parquet/<row>` for an image that is stored in a table",
)
CLASS = class_columns("class", "the class, by its row number in `classes`, from 0")
TRUE_CLASS = class_columns("true_class", "class that the image shows")
PREDICTED_CLASS = class_columns("predicted_class", "class that the base model took the image for")
PAIRED_CLASS = class_columns("paired_class", "the other class of the pair")
SPLIT = Column("split", TEXT, "`train`, `val` or `test`")
GROUP = Column(
    "group",
    TEXT,
    "`base`: trained; `novel`: never trained, and tested apart (`data.protocol=base_to_novel`)",
)
CONFIDENCE = share(
    "confidence", "softmax probability of the predicted class among the classes of the image's half"
)
TRUE_CONFIDENCE = share("true_confidence", "softmax probability of the true class")
KIND = Column(
    "kind",
    TEXT,
    "`commonality` (what both classes share) or `difference` (what tells the class from the other)",
)
FEATURE = Column("feature", vector(), "embedding", unit=UNIT_LENGTH)
STEP = Column("step", INT, "training step, from 1")

TEXT_FEATURES_COLUMNS = (
    *CLASS,
    Column("prompt", TEXT, "text that was encoded; `[v1]`, `[v2]`, ... stand for learned vectors"),
    FEATURE,
)

PREDICTIONS_COLUMNS = (
    SAMPLE,
    PATH,
    SPLIT,
    GROUP,
    *TRUE_CLASS,
    *class_columns("pseudo_label", "the most confident class of the image's half (eq. 6)"),
    Column("correct", pl.Boolean(), "whether pseudo-label and true class agree"),
    CONFIDENCE,
    TRUE_CONFIDENCE,
    Column("top_class_ids", pl.List(pl.Int64), "the most confident classes, best first"),
    Column("top_classes", pl.List(pl.String), "their names"),
    Column("top_confidences", pl.List(pl.Float64), "their softmax probabilities", unit="share"),
)

CALIBRATED_CONFIDENCE = Column(
    "calibrated_confidence",
    FLOAT,
    "`confidence` at the temperature that `train` fitted on validation images of trained classes "
    "among all classes; null where it fitted none",
    unit="share",
    nullable=True,
    optional=True,
)

_TOLD = ("confidence", "true_confidence", "top_confidences")

IMPORTED_PREDICTIONS_COLUMNS = tuple(
    or_null(column) if column.name in _TOLD else column for column in PREDICTIONS_COLUMNS
)

RESULTS_COLUMNS = (
    Column("dataset", TEXT, "name of the data set"),
    Column("method", TEXT, "name of the method"),
    Column("variant", TEXT, "of the study; `default` otherwise"),
    Column(
        "sees",
        TEXT,
        "what the run saw beyond few-shot images of base classes and their names: `base only` "
        "(nothing), or what else; `without ...`: what its settings ask for and its data could "
        "not give",
    ),
    Column("protocol", TEXT, "`all_classes` or `base_to_novel`; see `data.protocol`"),
    Column("seed", INT, "of the few-shot draw and of training"),
    Column(
        "metric",
        TEXT,
        "`accuracy` (`all_classes`); `base_accuracy`, `novel_accuracy`, `harmonic_mean` "
        "(`base_to_novel`); "
        "`bank_correction_rate`: share of the bank that is right now; "
        "`base_correction_rate`, `base_broken_rate`: of the test images of the base half, share of "
        "the base model's errors that are right now, and of its right answers that are wrong now; "
        "`test_correction_rate`: share of the base model's test errors (both halves) that are "
        "right now; `broken_rate`: share of its right test answers that are wrong now",
    ),
    Column("value", FLOAT, "null when there is no image to count", unit="percent", nullable=True),
    count("n", "images behind the value"),
)


def _of_capt(name: str, meaning: str, unit: str = "", kind: pl.DataType = FLOAT) -> Column:
    return Column(name, kind, meaning, unit=unit, nullable=True, optional=True)


CAPT_LOG_COLUMNS = (
    _of_capt("confusion_loss", "L_confuse (eq. 3)"),
    _of_capt("original_loss", "L_ori (eq. 2), over anchors"),
    _of_capt("retention_loss", "over anchors, divergence from the base model", "nats"),
    _of_capt("rows", "images forwarded: anchors and their representatives", "images", INT),
    _of_capt("alpha_mean", "mean adapter weight (eq. 13) of the step's images"),
    _of_capt("alpha_min", "least of them"),
    _of_capt("alpha_max", "largest of them"),
    _of_capt("alpha_running", "running mean of the adapter weight, used at inference"),
    _of_capt("residual_gate", "weight of the experts' output"),
    *(
        _of_capt(f"{expert}_expert_weight", f"mean gate weight of the {expert} expert")
        for expert in ("sample", "commonality", "difference")
    ),
    *(
        _of_capt(f"{expert}_expert_share", f"images the {expert} expert is active for", "share")
        for expert in ("sample", "commonality", "difference")
    ),
    _of_capt("gate_entropy", "of the gates", "nats"),
    *(
        _of_capt(f"{expert}_expert_norm", f"mean length of what the {expert} expert gives")
        for expert in ("sample", "commonality", "difference")
    ),
    *(
        _of_capt(
            f"{expert}_expert_common",
            f"of the {expert} expert's output, what all images have alike: |mean|² / mean |·|²",
            "share",
        )
        for expert in ("sample", "commonality", "difference")
    ),
    *(
        _of_capt(
            f"{expert}_expert_entropy",
            f"of the {expert} expert's softmax over K centres, over log K; 1: no choice",
            "share",
        )
        for expert in ("commonality", "difference")
    ),
    _of_capt(
        "projection_condition",
        "condition number of what is inverted of the tower's output map, to bring texts to the "
        "class token; null where they are in another space",
    ),
)
