"""Images whose label is worth a look: confident learning.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
2021, with their pruning by noise rate, which is cleanlab's default.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FOLDS = 5
AMBIGUOUS = 1 / 3
"""Least probability of the label, as a share of the suggested class's, of an ambiguous image: where
one of the two is three times as likely as the other, a second look rarely finds for the latter."""

_SLACK = 1e-6  # a class of one probability reaches its own mean


@dataclass(frozen=True)
class Suspect:
    """An image that looks more like another class than like its own.

    Attributes:
        row: of the image, among those that were judged.
        suggested: column of the class that it rather looks like.
        margin: probability of the label less that of the suggested class, from -1 to 0.
        ambiguous: whether its own class is nearly as likely.
    """

    row: int
    suggested: int
    margin: float
    ambiguous: bool


def class_thresholds(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Mean probability of each class over the images that are labelled so, [C].

    A class that no image has is never reached: its threshold is infinite.
    """
    sums = np.zeros(probabilities.shape[1])
    counts = np.zeros(probabilities.shape[1])
    np.add.at(sums, labels, probabilities[np.arange(len(labels)), labels])
    np.add.at(counts, labels, 1)
    means: npt.NDArray[np.float64] = np.full(len(sums), np.inf)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def confident_classes(
    probabilities: npt.NDArray[np.float64], thresholds: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """The class that each image is counted under in the confident joint, [N]; -1 for none.

    It is the likeliest of the classes whose probability reaches the class's threshold.
    """
    reached = probabilities >= thresholds - _SLACK
    likeliest = np.where(reached, probabilities, -1.0).argmax(axis=1)
    return np.where(reached.any(axis=1), likeliest, -1).astype(np.int64)


def wrong_label_counts(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """How many images of each class (row) are really of each other (column), [C, C].

    It is the confident joint, each row scaled to the number of images that are filed under its
    class: about half of a class's images reach its threshold, and of those of another class
    among them likewise. The diagonal holds what is filed rightly.
    """
    classes = probabilities.shape[1]
    counted = confident_classes(probabilities, class_thresholds(probabilities, labels))
    joint = np.zeros((classes, classes))
    np.add.at(joint, (labels[counted >= 0], counted[counted >= 0]), 1)
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))
    sizes = np.bincount(labels, minlength=classes)
    return np.asarray(np.rint(joint * (sizes / joint.sum(axis=1))[:, None]), dtype=np.int64)


def suspects(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> list[Suspect]:
    """Images that are probably filed under a wrong class, the most suspicious first.

    Of each class as many as `wrong_label_counts` says are of each other class: those that lean to
    it most. Images whose own class is the likeliest are no suspects. Suggested is the likeliest
    class. The order is by margin, then by row.

    Args:
        probabilities: of the classes, by a model that was not fitted on the image, [N, C].
        labels: column of the class that each image is filed under, [N].
    """
    if not len(labels):
        return []
    rows = np.arange(len(labels))
    likeliest = probabilities.argmax(axis=1)
    own, best = probabilities[rows, labels], probabilities[rows, likeliest]
    counts = wrong_label_counts(probabilities, labels)
    np.fill_diagonal(counts, 0)
    chosen: set[int] = set()
    for label, other in np.argwhere(counts > 0).tolist():
        doubtful = np.flatnonzero((labels == label) & (likeliest != label))
        order = np.argsort(own[doubtful] - probabilities[doubtful, other], kind="stable")
        chosen.update(doubtful[order[: counts[label, other]]].tolist())
    found = [
        Suspect(
            row,
            int(likeliest[row]),
            float(own[row] - best[row]),
            bool(own[row] >= AMBIGUOUS * best[row]),
        )
        for row in chosen
    ]
    return sorted(found, key=lambda each: (each.margin, each.row))


def held_out_probabilities(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], classes: int
) -> npt.NDArray[np.float64]:
    """Class probabilities of every image, by a logistic regression that was not fitted on it.

    Images of a class take turns in the folds, so a class is missing from a fit only if it has a
    single image.

    Args:
        features: [N, d], N at least 2, of at least two classes.
        labels: of the images, from 0, [N].
        classes: C; those without images get probability 0.

    Returns:
        [N, C]; rows sum to 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    fold = _folds(labels)
    found = np.zeros((len(labels), classes))
    for number in range(FOLDS):
        held, kept = fold == number, fold != number
        known = np.unique(labels[kept])
        if not held.any() or not len(known):
            continue
        if len(known) == 1:
            found[np.ix_(held, known)] = 1.0
            continue
        scaler = StandardScaler().fit(features[kept])
        # Strong enough a penalty that no wrong label is learned by heart, whatever the width.
        strength = _STRENGTH / features.shape[1]
        model = LogisticRegression(C=strength, max_iter=_ITERATIONS, tol=_TOLERANCE)
        model.fit(scaler.transform(features[kept]), labels[kept])
        found[np.ix_(held, known)] = model.predict_proba(scaler.transform(features[held]))
    return found


_STRENGTH = 1.0
_ITERATIONS = 200
_TOLERANCE = 1e-3


def _folds(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Fold of every image: drawn with a fixed seed, the images of a class spread evenly."""
    order = np.random.default_rng(0).permutation(len(labels))
    fold = np.zeros(len(labels), dtype=np.int64)
    # One count over all classes: small classes would otherwise all fill the first folds.
    fold[order[np.argsort(labels[order], kind="stable")]] = np.arange(len(labels)) % FOLDS
    return fold
