"""Confident learning: the formula by hand, and planted wrong labels."""

from __future__ import annotations

import numpy as np
import pytest

from capt_core.evaluation.label_issues import (
    class_thresholds,
    confident_classes,
    held_out_probabilities,
    suspects,
    wrong_label_counts,
)

PROBABILITIES = np.array(
    [
        [0.9, 0.1, 0.0],
        [0.7, 0.3, 0.0],
        [0.2, 0.8, 0.0],  # filed under 0
        [0.1, 0.9, 0.0],
        [0.3, 0.7, 0.0],
        [0.62, 0.38, 0.0],  # filed under 1
    ]
)
LABELS = np.array([0, 0, 0, 1, 1, 1])


def test_thresholds_by_hand() -> None:
    found = class_thresholds(PROBABILITIES, LABELS)
    assert found[:2] == pytest.approx([1.8 / 3, 1.98 / 3])
    assert np.isinf(found[2])


def test_the_confident_joint_by_hand() -> None:
    thresholds = class_thresholds(PROBABILITIES, LABELS)
    assert confident_classes(PROBABILITIES, thresholds).tolist() == [0, 0, 1, 1, 1, 0]
    unsure = np.array([[0.5, 0.5, 0.0]])
    assert confident_classes(unsure, thresholds).tolist() == [-1]
    both = np.array([[0.61, 0.67, 0.0]])
    assert confident_classes(both, thresholds).tolist() == [1]


def test_wrong_labels_are_counted_by_hand() -> None:
    # One image of each class reaches the other's threshold, beside two and one of its own.
    found = wrong_label_counts(PROBABILITIES, LABELS)
    assert found.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    # Of ten images of class 0 four are confident, two of them for class 1: five of ten are wrong.
    rows = [[0.9, 0.1]] * 2 + [[0.1, 0.9]] * 2 + [[0.45, 0.4]] * 6
    probabilities = np.array([*rows, [0.1, 0.9]])
    found = wrong_label_counts(probabilities, np.array([0] * 10 + [1]))
    assert found.tolist() == [[5, 5], [0, 1]]


def test_suspects_come_by_their_margin() -> None:
    first, second = suspects(PROBABILITIES, LABELS)
    assert (first.row, first.suggested, first.ambiguous) == (2, 1, False)
    assert first.margin == pytest.approx(0.2 - 0.8)
    assert (second.row, second.suggested, second.ambiguous) == (5, 0, True)
    assert suspects(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) == []


def test_the_likeliest_class_is_never_suspected() -> None:
    # Class 1 is never sure of itself, so 0.45 reaches its threshold; the image still looks like 0.
    probabilities = np.array([[0.55, 0.45], [0.99, 0.01], [0.7, 0.3], [0.7, 0.3]])
    found = suspects(probabilities, np.array([0, 0, 1, 1]))
    assert 0 not in [each.row for each in found]


def test_planted_wrong_labels_are_found() -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(8, 32))
    truth = np.repeat(np.arange(8), 60)
    features = centres[truth] + generator.normal(size=(480, 32))
    labels = truth.copy()
    planted = generator.choice(480, size=24, replace=False)
    labels[planted] = (truth[planted] + 1 + generator.integers(0, 7, size=24)) % 8
    probabilities = held_out_probabilities(features.astype(np.float32), labels, 8)
    found = suspects(probabilities, labels)
    rows = [each.row for each in found]
    assert len(rows) >= 15
    assert set(rows) <= set(planted.tolist())
    assert all(each.suggested == truth[each.row] for each in found)


def test_probabilities_are_those_of_models_that_never_saw_the_image() -> None:
    # Each image is alone of its kind: only a model that was fitted on it could know its label.
    generator = np.random.default_rng(1)
    features = generator.normal(size=(60, 200)).astype(np.float32)
    labels = generator.integers(0, 2, size=60)
    right = held_out_probabilities(features, labels, 2).argmax(axis=1) == labels
    assert right.mean() < 0.75


def test_classes_of_one_image_and_of_none() -> None:
    features = np.eye(9, dtype=np.float32)
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    found = held_out_probabilities(features, labels, 4)
    assert found.shape == (9, 4)
    assert found.sum(axis=1) == pytest.approx(np.ones(9))
    assert found[8, 2] == 0  # no other image of its class
    assert (found[:, 3] == 0).all()
    two = held_out_probabilities(features[:2], np.array([0, 1]), 2)
    assert two.tolist() == [[0, 1], [1, 0]]
