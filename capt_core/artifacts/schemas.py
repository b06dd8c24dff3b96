"""The tables that the stages write. ``artifacts/README.md`` documents every column."""

from __future__ import annotations

import polars as pl

from capt_core.artifacts.tables import Table, vector

_ID = pl.Int64()
_TEXT = pl.String()
_SHARE = pl.Float64()

SAMPLES = Table(
    "samples",
    "prepare",
    {"sample_id": _ID, "path": _TEXT, "class_id": _ID, "class_name": _TEXT, "split": _TEXT},
    key=["sample_id"],
)

CLASSES = Table(
    "classes",
    "prepare",
    {"class_id": _ID, "class_name": _TEXT, "group": _TEXT, "template": _TEXT},
    key=["class_id"],
)

REJECTED = Table(
    "rejected",
    "prepare",
    {
        "rejected_id": _ID,
        "path": _TEXT,
        "class_id": _ID,
        "class_name": _TEXT,
        "split": _TEXT,
        "reason": _TEXT,
    },
    key=["rejected_id"],
    nullable=frozenset({"class_id"}),
)

FEWSHOT = Table(
    "fewshot",
    "prepare",
    {"position": _ID, "sample_id": _ID, "path": _TEXT, "class_id": _ID, "split": _TEXT},
    key=["split", "position"],
)

IMAGE_FEATURES = Table(
    "image_features",
    "extract-features",
    {"sample_id": _ID, "feature": vector()},
    key=["sample_id"],
)


def _text_features(name: str, stage: str) -> Table:
    return Table(
        name,
        stage,
        {"class_id": _ID, "class_name": _TEXT, "prompt": _TEXT, "feature": vector()},
        key=["class_id"],
    )


TEXT_FEATURES = _text_features("text_features", "extract-features")
TEACHER_TEXT_FEATURES = _text_features("teacher_text_features", "fit-teacher")


def _predictions(name: str, stage: str) -> Table:
    return Table(
        name,
        stage,
        {
            "sample_id": _ID,
            "path": _TEXT,
            "split": _TEXT,
            "group": _TEXT,
            "true_class_id": _ID,
            "true_class": _TEXT,
            "pseudo_label_id": _ID,
            "pseudo_label": _TEXT,
            "correct": pl.Boolean(),
            "confidence": _SHARE,
            "true_confidence": _SHARE,
            "top_class_ids": pl.List(pl.Int64),
            "top_classes": pl.List(pl.String),
            "top_confidences": pl.List(pl.Float64),
        },
        key=["sample_id"],
    )


PREDICTIONS = _predictions("predictions", "infer-teacher")
RUN_PREDICTIONS = _predictions("run_predictions", "evaluate")

CONFUSION_BANK = Table(
    "confusion_bank",
    "build-bank",
    {
        "sample_id": _ID,
        "path": _TEXT,
        "true_class_id": _ID,
        "true_class": _TEXT,
        "predicted_class_id": _ID,
        "predicted_class": _TEXT,
        "confidence": _SHARE,
        "true_confidence": _SHARE,
        "view": _ID,
    },
    key=["sample_id", "predicted_class_id"],
)

CONFUSION_STATISTICS = Table(
    "confusion_statistics",
    "build-bank",
    {
        "true_class_id": _ID,
        "true_class": _TEXT,
        "predicted_class_id": _ID,
        "predicted_class": _TEXT,
        "count": _ID,
        "rate": _SHARE,
    },
    key=["true_class_id", "predicted_class_id"],
)

PAIRS = Table(
    "pairs",
    "mine-pairs",
    {
        "sample_id": _ID,
        "pseudo_label_id": _ID,
        "pseudo_label": _TEXT,
        "rank": _ID,
        "class_id": _ID,
        "class_name": _TEXT,
        "confidence": _SHARE,
        "count": _ID,
        "score": _SHARE,
    },
    key=["sample_id", "rank"],
)

CLASS_PAIRS = Table(
    "class_pairs",
    "mine-pairs",
    {
        "class_id": _ID,
        "class_name": _TEXT,
        "rank": _ID,
        "paired_class_id": _ID,
        "paired_class": _TEXT,
        "score": _SHARE,
        "count": _ID,
        "source": _TEXT,
    },
    key=["class_id", "rank"],
)

PROMPTS = Table(
    "prompts",
    "generate-prompts",
    {
        "class_id": _ID,
        "class_name": _TEXT,
        "paired_class_id": _ID,
        "paired_class": _TEXT,
        "kind": _TEXT,
        "position": _ID,
        "prompt": _TEXT,
        "source": _TEXT,
    },
    key=["class_id", "paired_class_id", "kind", "position"],
)

PROMPT_CLUSTERS = Table(
    "prompt_clusters",
    "cluster-prompts",
    {
        "kind": _TEXT,
        "cluster": _ID,
        "class_id": _ID,
        "class_name": _TEXT,
        "cosine": _SHARE,
        "prompts": pl.List(pl.String),
    },
    key=["kind", "class_id"],
)

PROMPT_SEPARATION = Table(
    "prompt_separation",
    "cluster-prompts",
    {
        "class_id": _ID,
        "class_name": _TEXT,
        "paired_class_id": _ID,
        "paired_class": _TEXT,
        "images": _ID,
        "paired_images": _ID,
        "cosine": _SHARE,
        "paired_cosine": _SHARE,
        "auc": _SHARE,
        "weakest_prompt": _TEXT,
        "weakest_auc": _SHARE,
    },
    key=["class_id", "paired_class_id"],
)

REPRESENTATIVES = Table(
    "representatives",
    "mine-samples",
    {
        "sample_id": _ID,
        "rank": _ID,
        "class_id": _ID,
        "class_name": _TEXT,
        "order": _ID,
        "representative_id": _ID,
        "representative_path": _TEXT,
        "cosine": _SHARE,
        "source": _TEXT,
    },
    key=["sample_id", "rank", "order"],
)

_OF_CAPT: dict[str, pl.DataType] = {
    "confusion_loss": _SHARE,
    "original_loss": _SHARE,
    "load_balance_loss": _SHARE,
    "retention_loss": _SHARE,
    "feature_loss": _SHARE,
    "rows": _ID,
    "alpha_mean": _SHARE,
    "alpha_min": _SHARE,
    "alpha_max": _SHARE,
    "alpha_running": _SHARE,
    "residual_gate": _SHARE,
    "sample_expert_weight": _SHARE,
    "commonality_expert_weight": _SHARE,
    "difference_expert_weight": _SHARE,
    "sample_expert_share": _SHARE,
    "commonality_expert_share": _SHARE,
    "difference_expert_share": _SHARE,
    "gate_entropy": _SHARE,
}

TRAINING_LOG = Table(
    "training_log",
    "train",
    {
        "step": _ID,
        "epoch": _ID,
        "learning_rate": _SHARE,
        "loss": _SHARE,
        **_OF_CAPT,
    },
    key=["step"],
    # Methods beside CAPT have a loss and nothing else of this.
    nullable=frozenset(_OF_CAPT),
)


TRAINING_SPEED = Table(
    "training_speed",
    "train",
    {"step": _ID, "rows": _ID, "seconds": _SHARE, "rows_per_second": _SHARE},
    key=["step"],
)


def _results(name: str, stage: str) -> Table:
    return Table(
        name,
        stage,
        {
            "dataset": _TEXT,
            "method": _TEXT,
            "variant": _TEXT,
            "sees": _TEXT,
            "protocol": _TEXT,
            "seed": _ID,
            "metric": _TEXT,
            "value": _SHARE,
            "n": _ID,
        },
        key=["dataset", "method", "variant", "protocol", "seed", "metric"],
        nullable=frozenset({"value"}),
    )


EVALUATION = _results("evaluation", "evaluate")
RESULTS = _results("results", "report")

ALL_TABLES = (
    SAMPLES,
    CLASSES,
    REJECTED,
    FEWSHOT,
    IMAGE_FEATURES,
    TEXT_FEATURES,
    TEACHER_TEXT_FEATURES,
    PREDICTIONS,
    CONFUSION_BANK,
    CONFUSION_STATISTICS,
    PAIRS,
    CLASS_PAIRS,
    PROMPTS,
    PROMPT_CLUSTERS,
    PROMPT_SEPARATION,
    REPRESENTATIVES,
    TRAINING_LOG,
    RUN_PREDICTIONS,
    EVALUATION,
    RESULTS,
)
