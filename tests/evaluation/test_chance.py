"""A model that only guesses, or does not suit its images, is called so."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt_core.backbone.loading import UNTRAINED_WARNING
from capt_core.evaluation.chance import (
    SIGNIFICANCE,
    chance_level,
    chance_warning,
    chance_warnings,
)
from capt_core.evaluation.doubts import backbone_doubts, is_unsuited


def test_chance_level_by_hand() -> None:
    # Two or three of three coins: 3/8 + 1/8.
    assert chance_level(2, 3, 2) == pytest.approx(0.5)
    assert chance_level(0, 10, 4) == 1
    assert chance_level(3, 3, 10) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("right", "images", "classes", "guessing"),
    [
        (10, 100, 10, True),
        (3, 100, 10, True),  # worse than chance is no better than chance
        (17, 100, 10, False),
        (4, 4, 2, False),  # nobody could be told from guessing by four images
        (50, 100, 1, False),
    ],
)
def test_guessing_is_said(right: int, images: int, classes: int, guessing: bool) -> None:
    sentence = chance_warning(right, images, classes)
    assert (sentence is not None) is guessing
    if sentence:
        assert f"{right} of {images} images are right" in sentence
        assert "guessing among 10 classes gives 10.0 %" in sentence


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 12))
def test_the_bound_says_what_the_exact_test_says(right: int, wrong: int, classes: int) -> None:
    images = right + wrong
    decidable = chance_level(images, images, classes) <= SIGNIFICANCE
    guessing = decidable and chance_level(right, images, classes) > SIGNIFICANCE
    assert (chance_warning(right, images, classes) is not None) is guessing


def test_each_half_is_judged_by_its_test_images() -> None:
    classes = pl.DataFrame({"group": ["base"] * 4 + ["novel"] * 4})
    predictions = pl.DataFrame(
        {
            "group": ["base"] * 60 + ["novel"] * 40,
            "split": ["train"] * 20 + ["test"] * 80,
            "correct": [True] * 20 + [True, False, False, False] * 10 + [True] * 40,
        }
    )
    (sentence,) = chance_warnings(predictions, classes)
    assert "10 of 40 base images" in sentence
    (sentence,) = chance_warnings(predictions.with_columns(split=pl.lit("train")).tail(80), classes)
    assert "10 of 40 base images" in sentence


def test_backbones_that_do_not_suit() -> None:
    assert backbone_doubts("proctex", "tiny-clip@0", False) == []
    assert backbone_doubts("mine", "ViT-B-16@0", False) == []
    assert backbone_doubts("mine", "", False) == []
    assert backbone_doubts("mine", "tiny-clip@0", True) == [UNTRAINED_WARNING]
    (sentence,) = backbone_doubts("mine", "tiny-clip@0", False)
    assert "drawn textures only" in sentence
    assert "checkpoint=FILE" in sentence


@pytest.mark.parametrize(
    ("backbone", "untrained", "right", "unsuited"),
    [
        ("tiny-clip@0", False, 40, True),
        ("tiny-clip@0", False, 60, False),  # the embedded model on textures like its own
        ("ViT-B-16@0", False, 40, False),  # hard images
        ("ViT-B-16@0", False, 10, True),
        ("ViT-B-16@0", True, 60, True),
        ("", False, 10, True),
    ],
)
def test_models_whose_confusions_say_nothing(
    backbone: str, untrained: bool, right: int, unsuited: bool
) -> None:
    classes = pl.DataFrame({"group": ["base"] * 10})
    predictions = pl.DataFrame(
        {
            "group": ["base"] * 100,
            "split": ["test"] * 100,
            "correct": [True] * right + [False] * (100 - right),
        }
    )
    assert is_unsuited("mine", backbone, untrained, predictions, classes) is unsuited
