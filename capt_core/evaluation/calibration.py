"""How far confidences can be believed: temperature, reliability, and a threshold for a precision.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

LEAST_TEMPERATURE = 0.05
MOST_TEMPERATURE = 20.0
LEAST_IMAGES = 20
"""Images that a `Calibration` needs: fewer say next to nothing about a confidence."""


@dataclass(frozen=True)
class Calibration:
    """What makes a model's confidences say how often it is right.

    Attributes:
        temperature: divides the logits before the softmax.
        threshold: confidence from which on answers are right with the precision; None where no
            confidence reaches it.
        precision: share of right answers that was aimed at, from 0 to 1.
        images: that it was fitted on.
        accuracy: share of them that was classified right.
    """

    temperature: float
    threshold: float | None
    precision: float
    images: int
    accuracy: float


def fit_calibration(
    logits: npt.ArrayLike, labels: npt.ArrayLike, precision: float
) -> Calibration | None:
    """Temperature and threshold on images that the model was not fitted on.

    Args:
        logits: [N, C].
        labels: column of each image's class, [N].
        precision: share of right answers to aim at, from 0 to 1.

    Returns:
        None for fewer than `LEAST_IMAGES` images.
    """
    from scipy.special import softmax

    scores, classes = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if len(scores) < LEAST_IMAGES:
        return None
    temperature = fit_temperature(scores, classes)
    confidences = softmax(scores / temperature, axis=1).max(axis=1)
    correct = scores.argmax(axis=1) == classes
    threshold = threshold_for_precision(confidences, correct, precision)
    return Calibration(temperature, threshold, precision, len(scores), float(correct.mean()))


def negative_log_likelihood(
    logits: npt.ArrayLike, labels: npt.ArrayLike, temperature: float
) -> float:
    """Mean over images of -log softmax(logits / temperature) at the true class.

    Args:
        logits: [N, C], N at least 1.
        labels: column of each image's class, [N].
        temperature: above 0.
    """
    from scipy.special import log_softmax

    scores = log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    return float(-scores[np.arange(len(scores)), np.asarray(labels, dtype=np.int64)].mean())


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The temperature under which images are most likely of their classes.

    It is sought by its logarithm, within `LEAST_TEMPERATURE` and `MOST_TEMPERATURE`: where every
    answer is right the likelihood has no maximum, and where the logits say nothing it has none
    either. The loss is convex in 1 / temperature, so what is found is the minimum.

    Args:
        logits: [N, C], of images that the model was not fitted on.
        labels: column of each image's class, [N].

    Returns:
        The divisor of the logits; above 1 makes a model less confident. 1 where it makes no
        difference: a single class.

    Raises:
        ValueError: no images, or another number of labels.
    """
    from scipy.optimize import minimize_scalar

    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 2 or not scores.size or len(scores) != len(np.asarray(labels)):
        raise ValueError("expected logits [N, C] and labels [N] of at least one image")
    if scores.shape[1] == 1:
        return 1.0
    found = minimize_scalar(
        lambda logarithm: negative_log_likelihood(scores, labels, float(np.exp(logarithm))),
        bounds=(np.log(LEAST_TEMPERATURE), np.log(MOST_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def reliability(confidences: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 10) -> pl.DataFrame:
    """The reliability diagram: what is right of what is said with some confidence.

    Args:
        confidences: of the predicted classes, from 0 to 1, [N].
        correct: whether each prediction is right, [N].
        bins: of equal width; a confidence on a border counts below it, 0 in the first.

    Returns:
        One row per bin, empty ones too: `lower`, `upper`, `images`, `confidence` (mean) and
        `accuracy`, both null in an empty bin.
    """
    values = np.asarray(confidences, dtype=np.float64)
    right = np.asarray(correct, dtype=bool)
    borders = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(borders, values, side="left") - 1, 0, bins - 1)
    found = (
        pl.DataFrame({"bin": place, "confidence": values, "correct": right})
        .group_by("bin")
        .agg(
            pl.len().cast(pl.Int64).alias("images"),
            pl.col("confidence").mean(),
            pl.col("correct").mean().alias("accuracy"),
        )
        .with_columns(pl.col("bin").cast(pl.Int64))
    )
    rows = pl.DataFrame(
        {"bin": np.arange(bins, dtype=np.int64), "lower": borders[:-1], "upper": borders[1:]}
    )
    joined = rows.join(found, on="bin", how="left", maintain_order="left").drop("bin")
    return joined.with_columns(pl.col("images").fill_null(0))


def expected_calibration_error(
    confidences: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15
) -> float | None:
    """Mean distance of accuracy and confidence over the bins of `reliability`, by their images.

    Returns:
        From 0 to 1; None without images.
    """
    table = reliability(confidences, correct, bins).filter(pl.col("images") > 0)
    if table.is_empty():
        return None
    distance = np.abs(table["accuracy"].to_numpy() - table["confidence"].to_numpy())
    return float(np.average(distance, weights=table["images"].to_numpy()))


def threshold_for_precision(
    confidences: npt.ArrayLike, correct: npt.ArrayLike, precision: float
) -> float | None:
    """The lowest confidence from which on predictions are right as often as is asked for.

    Of n images at or above a threshold, k of them right, the precision is estimated as
    (k + 1) / (n + 2), Laplace's rule of succession: the expected share of right answers to come,
    where every share was as likely before. A few right answers prove little under it: 95 % needs 18
    images without an error, or 38 with one. (The lower end of a 95 % interval would ask for 73 to
    say the same, which few-shot data sets do not have.)

    Args:
        confidences: of the predicted classes, [N].
        correct: whether each prediction is right, [N].
        precision: share of right answers, from 0 to 1.

    Returns:
        One of the confidences; None where none reaches the precision, or the images are too few
        to tell.
    """
    values = np.asarray(confidences, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    values, right = values[order], right[order]
    estimate = (np.cumsum(right) + 1) / (np.arange(1, len(values) + 1) + 2)
    # Images of one confidence are above a threshold together: the last of them counts them all.
    last_of_its_value = np.append(values[1:] != values[:-1], True)[: len(values)]
    # Fractions such as 19 / 20 may round below the decimal they are equal to.
    enough = np.flatnonzero((estimate >= precision - 1e-12) & last_of_its_value)
    return float(values[enough[-1]]) if len(enough) else None
