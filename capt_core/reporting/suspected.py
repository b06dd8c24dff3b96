"""The report's short list of images whose labels are worth a look."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from capt_core.artifacts.report_tables import SUSPECTED_LABELS
from capt_core.evaluation.label_issues import Suspect, held_out_probabilities, suspects
from capt_core.evaluation.outcomes import counted_images

MOST_FOR_CROSS_VALIDATION = 20_000
"""Images; five fits take a quarter of a minute then (512 numbers each, 2 cores), and grow."""

MOST_LISTED = 50
"""More than anybody looks through in one sitting."""
SHARE_LISTED = 0.02
LEAST_LISTED = 10

LEAST_ACCURACY = 0.5
"""Of the judging model: one that is wrong about most images has no say about their labels."""

_MOST_CELLS = 64_000_000  # images times classes, half a gigabyte
_LEAST_IMAGES = 10  # fewer give no class threshold that would mean anything


def suspected_labels(
    samples: pl.DataFrame,
    classes: pl.DataFrame,
    predictions: pl.DataFrame,
    features: npt.NDArray[np.float32] | None,
    trained_elsewhere: bool,
) -> pl.DataFrame:
    """Images that probably bear a wrong label, or lie between two classes.

    By confident learning (`capt_core.evaluation.label_issues`) on predictions of a model that was
    not fitted on the image: a cross-validated logistic regression on frozen features of all images,
    or, without features or with more than `MOST_FOR_CROSS_VALIDATION` images, the base model.

    Args:
        samples: table `samples`.
        classes: table `classes`.
        predictions: table `predictions` of the base model.
        features: of all samples, [N, d]; None without them.
        trained_elsewhere: the base model may have been fitted on the training images: only test
            images are judged by it.

    Returns:
        Rows as in the table `suspected_labels`, the most suspicious first; at most 2 % of the
        images, but not fewer than `LEAST_LISTED` or more than `MOST_LISTED`. None where the judging
        model is right about fewer than half of the images.
    """
    if features is not None and len(features) <= MOST_FOR_CROSS_VALIDATION:
        images = samples.select(
            "sample_id", "path", "split", "class_id", pl.col("class_name").alias("label")
        )
        labels = images["class_id"].to_numpy()
        if len(images) < _LEAST_IMAGES or len(np.unique(labels)) < 2:
            return SUSPECTED_LABELS.frame()
        probabilities = held_out_probabilities(features, labels, len(classes))
    else:
        test_only = trained_elsewhere or len(predictions) * len(classes) > _MOST_CELLS
        judged = counted_images(predictions) if test_only else predictions
        images = judged.filter(
            pl.col("top_confidences").list.len() > 0,
            pl.col("top_confidences").list.eval(pl.element().is_null()).list.any().not_(),
        ).select(
            "sample_id",
            "path",
            "split",
            pl.col("true_class_id").alias("class_id"),
            pl.col("true_class").alias("label"),
            *("true_confidence", "top_class_ids", "top_confidences"),
        )
        if len(images) < _LEAST_IMAGES or len(images) * len(classes) > _MOST_CELLS:
            return SUSPECTED_LABELS.frame()
        labels = images["class_id"].to_numpy()
        probabilities = listed_probabilities(images, len(classes))
    if (probabilities.argmax(axis=1) == labels).mean() < LEAST_ACCURACY:
        return SUSPECTED_LABELS.frame()
    limit = min(MOST_LISTED, max(LEAST_LISTED, math.ceil(SHARE_LISTED * len(images))))
    return _table(images, classes, probabilities, suspects(probabilities, labels)[:limit])


def listed_probabilities(images: pl.DataFrame, classes: int) -> npt.NDArray[np.float64]:
    """Class probabilities [N, C] from `top_class_ids` and `top_confidences`; 0 where not listed.

    The true class's is known from `true_confidence`, though it may not be listed.
    """
    found = np.zeros((len(images), classes))
    rows = np.repeat(np.arange(len(images)), images["top_class_ids"].list.len().to_numpy())
    columns = images["top_class_ids"].explode().to_numpy()
    found[rows, columns] = images["top_confidences"].explode().to_numpy()
    own = images["true_confidence"].to_numpy().astype(float)
    known = np.isfinite(own)
    found[np.flatnonzero(known), images["class_id"].to_numpy()[known]] = own[known]
    return found


def _table(
    images: pl.DataFrame,
    classes: pl.DataFrame,
    probabilities: npt.NDArray[np.float64],
    found: Sequence[Suspect],
) -> pl.DataFrame:
    names = classes["class_name"].to_list()
    rows = []
    for suspect in found:
        image = images.row(suspect.row, named=True)
        rows.append(
            {
                "sample_id": image["sample_id"],
                "path": image["path"],
                "split": image["split"],
                "label_id": image["class_id"],
                "label": image["label"],
                "suggested_id": suspect.suggested,
                "suggested": names[suspect.suggested],
                "kind": "ambiguous" if suspect.ambiguous else "label",
                "label_probability": float(probabilities[suspect.row, image["class_id"]]),
                "suggested_probability": float(probabilities[suspect.row, suspect.suggested]),
            }
        )
    return SUSPECTED_LABELS.frame(rows)
