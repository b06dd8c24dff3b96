"""The Confusion Bank: every misclassified training image, and how often which pair occurs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from capt_core.artifacts.schemas import CONFUSION_BANK, CONFUSION_STATISTICS
from capt_core.data.dataset import Dataset


def confusion_bank(
    predictions: pl.DataFrame, augmented: Sequence[pl.DataFrame] = ()
) -> pl.DataFrame:
    """Misclassified images (paper, section 3.2): cell (g, p) holds those of class g taken for p.

    An image enters a cell once, by the first view that was taken for p.

    Args:
        predictions: rows of the table `predictions` for the images that may enter the bank, as
            the base model sees them in the test view.
        augmented: the same for further views of these images, one frame per view.

    Returns:
        Rows as in the table `confusion_bank`, sorted by true class, predicted class and sample;
        `view` is 0 for the test view and counts `augmented` from 1.
    """
    views = [
        frame.with_columns(pl.lit(number, pl.Int64).alias("view"))
        for number, frame in enumerate([predictions, *augmented])
    ]
    wrong = (
        pl.concat(views)
        .filter(~pl.col("correct"))
        .unique(["sample_id", "pseudo_label_id"], keep="first", maintain_order=True)
        .rename({"pseudo_label_id": "predicted_class_id", "pseudo_label": "predicted_class"})
    )
    return CONFUSION_BANK.select(wrong).sort("true_class_id", "predicted_class_id", "sample_id")


def confusion_statistics(bank: pl.DataFrame, predictions: pl.DataFrame) -> pl.DataFrame:
    """How often each class was taken for each other: N[true class][class predicted].

    Args:
        bank: the table `confusion_bank`.
        predictions: the images that could have entered the bank, right or wrong.

    Returns:
        Rows as in the table `confusion_statistics`, most frequent first. `rate` is the count
        as a share of the true class's `predictions`. Pairs never seen are left out.
    """
    images = predictions.group_by("true_class_id").agg(pl.len().alias("images"))
    counted = (
        bank.group_by("true_class_id", "true_class", "predicted_class_id", "predicted_class")
        .agg(pl.len().cast(pl.Int64).alias("count"))
        .join(images, on="true_class_id")
        .with_columns((pl.col("count") / pl.col("images")).alias("rate"))
        .sort("count", "true_class_id", "predicted_class_id", descending=[True, False, False])
    )
    return CONFUSION_STATISTICS.select(counted)


def count_matrix(statistics: pl.DataFrame, class_count: int) -> np.ndarray:
    """Counts N [C, C] as int64: row = true class, column = class predicted; zero diagonal."""
    counts = np.zeros((class_count, class_count), dtype=np.int64)
    true = statistics["true_class_id"].to_numpy()
    predicted = statistics["predicted_class_id"].to_numpy()
    counts[true, predicted] = statistics["count"].to_numpy()
    return counts


def training_predictions(
    dataset: Dataset, predictions: pl.DataFrame, sample_ids: pl.Series
) -> pl.DataFrame:
    """Predictions of the given training images, base classes only (nothing novel may leak in)."""
    base = dataset.class_ids("base")
    return predictions.filter(
        pl.col("sample_id").is_in(sample_ids.implode()),
        pl.col("true_class_id").is_in(base),
        pl.col("split") == "train",
    )
