"""The tables that the stages write: their columns with type, unit and meaning.

``artifacts/README.md`` is written from these declarations, by `capt_core.artifacts.documentation`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from capt_core.artifacts.columns import (
    CALIBRATED_CONFIDENCE,
    CAPT_LOG_COLUMNS,
    CLASS,
    CONFIDENCE,
    FEATURE,
    FLOAT,
    GROUP,
    IMPORTED_PREDICTIONS_COLUMNS,
    INT,
    KIND,
    PAIRED_CLASS,
    PATH,
    PREDICTED_CLASS,
    PREDICTIONS_COLUMNS,
    RESULTS_COLUMNS,
    SAMPLE,
    SPLIT,
    STEP,
    TEXT,
    TEXT_FEATURES_COLUMNS,
    TRUE_CLASS,
    TRUE_CONFIDENCE,
    class_columns,
    cosine,
    count,
    or_null,
    share,
)
from capt_core.artifacts.layout import Layout, ReportLayout
from capt_core.artifacts.report_tables import REPORT_TABLES
from capt_core.artifacts.tables import Column, Table, check_table, load_table
from capt_core.errors import CaptError, shown

_DATA = Layout(Path(), "<dataset>")
_SEED = _DATA.seed("<S>")

SAMPLES = Table(
    "samples",
    "prepare",
    str(_DATA.samples),
    "One row per image: train, val, test, each in the order of the split file, or else class by "
    "class in the order of the file names' code points.",
    [SAMPLE, PATH, *CLASS, SPLIT],
    key=["sample_id"],
)

CLASSES = Table(
    "classes",
    "prepare",
    str(_DATA.classes),
    "One row per class, named as in the split file, the folder or `classes.yaml`.",
    [*CLASS, GROUP, Column("template", TEXT, "prompt; `{}` stands for the class name")],
    key=["class_id"],
)

REJECTED = Table(
    "rejected",
    "prepare",
    str(_DATA.rejected),
    "One row per image left out by `data.on_bad_image=quarantine`, with control characters in "
    "names escaped; usually empty.",
    [
        Column("rejected_id", INT, "row number from 0"),
        PATH,
        replace(
            CLASS[0],
            meaning="the class; null where a class was left out or a row could not be read",
            nullable=True,
        ),
        CLASS[1],
        replace(SPLIT, meaning=f"{SPLIT.meaning}; may be empty where `class_id` is null"),
        Column("reason", TEXT, "what is wrong with the file, or with the list that names it"),
    ],
    key=["rejected_id"],
)

FEWSHOT = Table(
    "fewshot",
    "prepare",
    str(_DATA.fewshot("<K>", "<S>")),
    "One row per image of the few-shot draw: K training and min(K, 4) validation images of every "
    "class, equal to what the CoOp line of code draws for this seed.",
    [
        Column("position", INT, "place in the draw, from 0, counted apart for train and val"),
        SAMPLE,
        PATH,
        CLASS[0],
        SPLIT,
    ],
    key=["split", "position"],
)

IMAGE_FEATURES = Table(
    "image_features",
    "extract-features",
    str(_DATA.image_features),
    "One row per image of the data set, as the frozen image tower embeds it.",
    [SAMPLE, FEATURE],
    key=["sample_id"],
)

IMAGE_FEATURE_PARTS = Table(
    "image_feature_parts",
    "extract-features",
    f"{_DATA.feature_parts}/<settings>/<digest>.parquet",
    "One row per image of a part of `image_features`, kept for runs that go on or meet the same "
    "images again; may be deleted.",
    [PATH, Column("digest", TEXT, "first 32 hex digits of the SHA-256 of its bytes"), FEATURE],
    key=["path"],
)

TEXT_FEATURES = Table(
    "text_features",
    "extract-features",
    str(_DATA.text_features),
    "One row per class, as the frozen text tower embeds its hand-written prompt.",
    TEXT_FEATURES_COLUMNS,
    key=["class_id"],
)

BASE_TEXT_FEATURES = Table(
    "base_text_features",
    "fit-teacher",
    str(_SEED.base_text_features),
    "One row per class, as the base model of a draw embeds it; equal to `text_features` for "
    "`fit_teacher.method=clip`.",
    TEXT_FEATURES_COLUMNS,
    key=["class_id"],
)

PREDICTIONS = Table(
    "predictions",
    "infer-teacher",
    str(_SEED.predictions),
    "One row per image, as the base model classifies it among the classes of its own half; of "
    "imported predictions one per row of their table, among all classes.",
    IMPORTED_PREDICTIONS_COLUMNS,
    key=["sample_id"],
)

LIKELY_CLASSES = Table(
    "likely_classes",
    "infer-teacher",
    str(_SEED.likely_classes),
    "One row per few-shot training image of a base class: the classes that can be among its "
    "confusion pairs, whatever the statistics say, which can double a confidence (eq. 7).",
    [
        SAMPLE,
        Column("class_ids", pl.List(pl.Int64), "the classes, by their row number in `classes`"),
        Column(
            "confidences",
            pl.List(pl.Float32),
            "the base model's softmax probabilities of these classes",
            unit="share",
        ),
    ],
    key=["sample_id"],
)

MEAN_CONFIDENCES = Table(
    "mean_confidences",
    "infer-teacher",
    str(_SEED.mean_confidences),
    "One row per base class that few-shot training images are taken for: how sure the base model "
    "is, on average, of each class where it takes an image for this one.",
    [
        *CLASS,
        count("images", "few-shot training images of base classes that are taken for the class"),
        Column(
            "confidences",
            pl.List(pl.Float64),
            "mean softmax probability of every base class, in the order of `classes`",
            unit="share",
        ),
    ],
    key=["class_id"],
)

RUN_PREDICTIONS = Table(
    "run_predictions",
    "evaluate",
    str(_SEED.run("<method>").predictions),
    "One row per test image and per training image that could enter the bank, as the trained "
    "method classifies it among the classes of its own half.",
    [*PREDICTIONS_COLUMNS, CALIBRATED_CONFIDENCE],
    key=["sample_id"],
)

CONFUSION_BANK = Table(
    "confusion_bank",
    "build-bank",
    str(_SEED.confusion_bank),
    "One row per misclassified training image of a base class and class it was taken for; with "
    "`build_bank.source=augmented_views` an image may be taken for several classes, and may be "
    "right in the test view (the bank's correction rate counts those that are wrong there). Of "
    "imported predictions all classes count and, where none is of a training image, all images.",
    [
        SAMPLE,
        PATH,
        *TRUE_CLASS,
        *PREDICTED_CLASS,
        or_null(CONFIDENCE),
        or_null(TRUE_CONFIDENCE),
        Column("view", INT, "0: wrong in the test view; otherwise the first random view that is"),
    ],
    key=["sample_id", "predicted_class_id"],
)

CONFUSION_STATISTICS = Table(
    "confusion_statistics",
    "build-bank",
    str(_SEED.confusion_statistics),
    "One row per class and class it was taken for, most frequent first; pairs never seen are left "
    "out.",
    [
        *TRUE_CLASS,
        *PREDICTED_CLASS,
        count("count", "misclassified training images"),
        share("rate", "`count` over the true class's training images that could enter the bank"),
    ],
    key=["true_class_id", "predicted_class_id"],
)

PAIRS = Table(
    "pairs",
    "mine-pairs",
    str(_SEED.pairs),
    "One row per few-shot training image of a base class and class it is likely confused with "
    "(eq. 6 and 7; with `mine_pairs.selection=any` by eq. 8 over the bank).",
    [
        SAMPLE,
        *class_columns(
            "pseudo_label",
            "class that the base model takes the image for; with "
            "`mine_pairs.pseudo_label=real_gt` its true class",
        ),
        Column("rank", INT, "1 for the highest score; by default up to min(5, C - 1)"),
        *class_columns("class", "the confusing class, never the pseudo-label itself"),
        share("confidence", "the base model's softmax probability of the confusing class"),
        count(
            "count", "images of the pseudo-label's class that were taken for the confusing class"
        ),
        Column(
            "score",
            FLOAT,
            "(1 + count / row sum) x confidence, or the confidence where the row is empty; with "
            "`mine_pairs.selection=any` the cosine of the class's most similar misclassified image",
        ),
    ],
    key=["sample_id", "rank"],
)

CLASS_PAIRS = Table(
    "class_pairs",
    "mine-pairs",
    str(_SEED.class_pairs),
    "One row per base class and class it is likely confused with.",
    [
        *CLASS,
        Column("rank", INT, "place of the other class, from 1"),
        *PAIRED_CLASS,
        Column(
            "score",
            FLOAT,
            "mean score over the images taken for the class, or the cosine of the two prompts",
        ),
        count("count", "images of the class taken for the other"),
        Column(
            "source", TEXT, "`score`, or `text_similarity` for a class that no image was taken for"
        ),
    ],
    key=["class_id", "rank"],
)

PROMPTS = Table(
    "prompts",
    "generate-prompts",
    str(_SEED.prompts),
    "One row per prompt that describes a pair of classes.",
    [
        *CLASS,
        *PAIRED_CLASS,
        KIND,
        Column("position", INT, "number of the prompt, from 0"),
        Column("prompt", TEXT, "the text"),
        Column(
            "source",
            TEXT,
            "where it was written: the word the prompt store uses, `anthropic/<model>`, or "
            "`template`, which only names the classes",
        ),
    ],
    key=["class_id", "paired_class_id", "kind", "position"],
)

CLASS_DESCRIPTIONS = Table(
    "class_descriptions",
    "generate-prompts",
    str(_SEED.class_descriptions),
    "One row per sentence that describes a class, base or novel, by itself or against another; "
    "none where nothing is written.",
    [
        *CLASS,
        *(
            replace(column, meaning=f"{column.meaning}; null where there is none", nullable=True)
            for column in PAIRED_CLASS
        ),
        Column("position", INT, "number among the sentences of the class, from 0"),
        Column(
            "attribute",
            TEXT,
            "what the sentence speaks of, such as `colour`; null where it was not asked for one",
            nullable=True,
        ),
        Column("description", TEXT, "the sentence"),
        Column(
            "phrase",
            TEXT,
            "what stands behind the class's name in the sentence; null where the sentence was "
            "written as a whole",
            nullable=True,
        ),
        Column("source", TEXT, "where it was written, as in `prompts`"),
    ],
    key=["class_id", "position"],
)

PROMPT_CLUSTERS = Table(
    "prompt_clusters",
    "cluster-prompts",
    str(_SEED.prompt_clusters),
    "One row per kind of prompt and class: its place in the K-means clustering of the classes' "
    "mean prompt embeddings (eq. 12), one clustering per kind.",
    [
        KIND,
        Column("cluster", INT, "number of the cluster; 0 is the largest"),
        *CLASS,
        cosine("cosine", "of the class's mean embedding to the centre"),
        Column("prompts", pl.List(pl.String), "the texts behind the mean"),
    ],
    key=["kind", "class_id"],
)

PROMPT_SEPARATION = Table(
    "prompt_separation",
    "cluster-prompts",
    str(_SEED.prompt_separation),
    "One row per ordered pair of classes, worst first: whether the difference prompts of a class "
    "against the other are nearer to its own images than to the other's (few-shot training images "
    "of base classes, in the frozen base model's space).",
    [
        *CLASS,
        *PAIRED_CLASS,
        count("images", "images of the class"),
        count("paired_images", "images of the other class"),
        cosine("cosine", "mean, of the prompts to the class's own images"),
        cosine("paired_cosine", "mean, of the prompts to the other's images"),
        share(
            "auc",
            "pairs of an own and an other image in which the own one is nearer to the prompts, by "
            "mean cosine; 0.5 is chance, and low values name prompts that are worth rewriting",
        ),
        Column("weakest_prompt", TEXT, "the prompt that separates worst"),
        share("weakest_auc", "`auc` of that prompt alone"),
    ],
    key=["class_id", "paired_class_id"],
)

REPRESENTATIVES = Table(
    "representatives",
    "mine-samples",
    str(_SEED.representatives),
    "One row per image of `pairs`, confusing class and image that represents this confusion best "
    "(eq. 8), by cosine to the image.",
    [
        SAMPLE,
        Column("rank", INT, "of the pair, as in `pairs`"),
        *class_columns("class", "the confusing class"),
        Column("order", INT, "from 1; up to `mine_samples.representatives` per pair"),
        Column("representative_id", INT, "`sample_id` of the representative; never the image's"),
        Column("representative_path", TEXT, "its `path`"),
        cosine("cosine", "of the two images' features"),
        Column(
            "source",
            TEXT,
            "`confused_with_anchor`: of the confusing class, taken for the pseudo-label; "
            "`confused_class`: any misclassified image of the confusing class; "
            "`anchor_class_confused`: of the pseudo-label's class, taken for the confusing one; "
            "`random_train`: no (further) misclassified image, or `mine_samples.choice=random`: "
            "drawn from the few-shot images of the confusing class; `zone`, `nearest`: right or "
            "wrong, by `mine_samples.choice`",
        ),
    ],
    key=["sample_id", "rank", "order"],
)

TRAINING_LOG = Table(
    "training_log",
    "train",
    str(_SEED.run("<method>").training_log),
    "One row per training step; empty for methods without training.",
    [
        STEP,
        Column("epoch", INT, "from 1"),
        Column("learning_rate", FLOAT, "of the step"),
        Column("loss", FLOAT, "what is minimised: the parts that follow, weighted"),
        *CAPT_LOG_COLUMNS,
    ],
    key=["step"],
    open=True,
)

TRAINING_SPEED = Table(
    "training_speed",
    "train",
    "runs/train-<dataset>-<method>-seed<S>-speed.parquet",
    "One row per training step.",
    [
        STEP,
        count("rows", "images forwarded"),
        Column("seconds", FLOAT, "time the step took", unit="seconds"),
        Column("rows_per_second", FLOAT, "`rows` over `seconds`", unit="images per second"),
    ],
    key=["step"],
)

_RESULTS_KEY = ("dataset", "method", "variant", "protocol", "seed", "metric")

EVALUATION = Table(
    "evaluation",
    "evaluate",
    str(_DATA.evaluation("<method>", "<S>")),
    "One row per metric of a run.",
    RESULTS_COLUMNS,
    key=_RESULTS_KEY,
)

RESULTS = Table(
    "results",
    "report",
    str(ReportLayout(Path()).results),
    "One row per run and metric: the rows of all `evaluation` tables.",
    RESULTS_COLUMNS,
    key=_RESULTS_KEY,
)

ALL_TABLES = (
    *(value for value in tuple(globals().values()) if isinstance(value, Table)),
    *REPORT_TABLES,
)
"""Every table above, in this order, and those beside the report."""


def open_table(path: Path | str) -> pl.DataFrame:
    """Read any table that a stage wrote, checked against the declaration that its file names.

    Raises:
        CaptError: missing or damaged file, or none of these tables.
    """
    remedy = "name a table that capt-stage wrote"
    path = Path(path)
    frame, record = load_table(path, remedy)
    for table in ALL_TABLES:
        if table.name == record.get("table"):
            check_table(table, path, frame, record, f"run: capt-stage {table.stage}")
            return frame
    raise CaptError(f"{path}: holds {shown(record.get('table', 'an unknown table'))}; {remedy}")
