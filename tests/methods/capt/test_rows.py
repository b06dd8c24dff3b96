"""Rows of a step: who is forwarded with which label and which alpha."""

from __future__ import annotations

import polars as pl
import pytest

from capt_core.learning.randomness import generator
from capt_core.methods.capt.rows import (
    Anchor,
    anchor_weight,
    build_anchors,
    build_rows,
    by_class,
    drawn_of_class,
    redrawn,
    with_mixtures,
)

LABELS = [0, 0, 1, 2]


def test_anchors_keep_their_representatives_and_alphas() -> None:
    found = pl.DataFrame({"sample_id": [0, 0], "representative_id": [2, 3], "cosine": [0.81, 0.25]})
    without, anchor = build_anchors([1, 0], found, scale=5.0, exponent=0.5)
    assert without == Anchor(1, (), ())
    assert (anchor.sample_id, anchor.representatives) == (0, (2, 3))
    assert anchor.alphas == pytest.approx((4.5, 2.5))


def test_a_row_per_image_with_its_own_label() -> None:
    rows = build_rows([Anchor(0, (2, 3), (4.5, 2.5)), Anchor(1, (), ())], LABELS, 3.0)
    assert rows.sample_ids == [0, 2, 3, 1]
    assert rows.labels.tolist() == [0, 1, 2, 0]
    # The anchor takes the mean of its representatives' weights, one without any the running mean.
    assert rows.alphas.tolist() == [3.5, 4.5, 2.5, 3.0]
    assert rows.retrieved.tolist() == [True, True, True, False]
    assert rows.anchors.tolist() == [True, False, False, True]


def test_the_alpha_of_an_anchor() -> None:
    alphas = (2.5, 4.5, 2.0)
    assert anchor_weight(alphas, 9.0) == 3.0
    assert anchor_weight((), 9.0) == 9.0
    rows = build_rows([Anchor(0, (2, 3, 1), alphas)], LABELS, 9.0)
    # Representatives keep their own.
    assert rows.alphas.tolist() == [3.0, *alphas]


def test_another_image_of_the_class_is_drawn_never_those_named() -> None:
    drawn = {drawn_of_class(4, [1, 2, 3, 4], generator("test", i), 1) for i in range(40)}
    assert drawn == {2, 3}
    assert drawn_of_class(4, [4], generator("test", 0)) == 4


def test_redrawn_representatives_keep_classes_and_weights() -> None:
    labels = [0, 0, 0, 1, 1, 1]
    anchors = [Anchor(sample_id, (), ()) for sample_id in range(6)]
    members = by_class(anchors, labels)
    assert members == {0: [0, 1, 2], 1: [3, 4, 5]}
    anchor = Anchor(0, (3, 1), (4.5, 2.5))
    found = {redrawn([anchor], members, labels, generator("test", i))[0] for i in range(40)}
    assert {each.representatives for each in found} == {(4, 2), (5, 2)}
    assert {each.alphas for each in found} == {(4.5, 2.5)}


def test_a_mixture_for_each_anchor_with_another_image_of_its_class() -> None:
    labels = [0, 0, 1, 1]
    anchors = [Anchor(0, (2,), (4.5,)), Anchor(3, (), ())]
    members = {0: [0, 1], 1: [2, 3]}
    rows = with_mixtures(build_rows(anchors, labels, 3.0), members, labels, generator("test"))
    assert rows.sample_ids == [0, 2, 3, 0, 3]
    assert rows.partners == [None, None, None, 1, 2]
    assert rows.labels.tolist() == [0, 1, 1, 0, 1]
    assert rows.alphas.tolist() == [4.5, 4.5, 3.0, 4.5, 3.0]
    assert rows.anchors.tolist() == [True, False, True, False, False]
    assert rows.mixtures is not None
    assert rows.mixtures.tolist() == [False, False, False, True, True]
    assert build_rows(anchors, labels, 3.0).mixtures is None
