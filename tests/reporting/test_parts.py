"""Parts of the findings: suspected labels, map, representatives, confidences."""

from __future__ import annotations

import importlib.util

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import PCA

from capt_core.reporting import image_map as maps
from capt_core.reporting.confidence import confidences
from capt_core.reporting.error_examples import with_representatives
from capt_core.reporting.image_map import image_map, pca_plane
from capt_core.reporting.suspected import LEAST_LISTED, listed_probabilities, suspected_labels
from tests.refusals import refusal

NAMES = ["cat", "fox", "oak"]
CLASSES = pl.DataFrame({"class_id": [0, 1, 2], "class_name": NAMES})


def samples(labels: np.ndarray, split: str = "test") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "sample_id": range(len(labels)),
            "path": [f"{index}.png" for index in range(len(labels))],
            "split": split,
            "class_id": labels,
            "class_name": [NAMES[label] for label in labels],
        }
    )


def predictions(labels: np.ndarray, likeliest: np.ndarray, split: str = "test") -> pl.DataFrame:
    """Answers of a model that is 90 % sure, with the two likeliest classes listed."""
    second = (likeliest + 1) % 3
    return (
        samples(labels, split)
        .rename({"class_id": "true_class_id"})
        .select(
            "sample_id",
            "path",
            "split",
            "true_class_id",
            pl.col("class_name").alias("true_class"),
            pl.Series("true_confidence", np.where(labels == likeliest, 0.9, 0.05)),
            pl.Series("top_class_ids", np.stack([likeliest, second], axis=1)).cast(
                pl.List(pl.Int64)
            ),
            pl.Series("top_confidences", [[0.9, 0.05]] * len(labels)),
        )
    )


def test_suspects_by_cross_validation_on_features() -> None:
    generator = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 30)
    features = (np.eye(3, 16)[truth] * 4 + generator.normal(size=(90, 16))).astype(np.float32)
    labels = truth.copy()
    planted = [3, 40, 41, 80]
    labels[planted] = (truth[planted] + 1) % 3
    found = suspected_labels(
        samples(labels), CLASSES, pl.DataFrame(), features, trained_elsewhere=True
    )
    assert sorted(found["sample_id"][:4]) == planted
    assert len(found) < 7
    for row in found[:4].iter_rows(named=True):
        assert row["suggested_id"] == truth[row["sample_id"]]
        assert row["label"] == NAMES[labels[row["sample_id"]]]
        assert row["suggested_probability"] > row["label_probability"]
        assert row["kind"] in ("label", "ambiguous")


def test_suspects_by_the_base_model_without_features() -> None:
    truth = np.repeat([0, 1, 2], 20)
    labels = truth.copy()
    labels[[5, 25]] = 2
    judged = predictions(labels, truth)
    found = suspected_labels(samples(labels), CLASSES, judged, None, trained_elsewhere=True)
    assert found["sample_id"].to_list() == [5, 25]
    assert found["suggested"].to_list() == ["cat", "fox"]
    assert found["kind"].to_list() == ["label", "label"]
    # A model that was trained on these images has no say about them.
    train = pl.concat([judged.with_columns(split=pl.lit("train")), judged.clear()])
    mixed = pl.concat([train, predictions(truth, truth).with_columns(pl.col("sample_id") + 60)])
    assert suspected_labels(samples(labels), CLASSES, mixed, None, True).is_empty()
    assert len(suspected_labels(samples(labels), CLASSES, mixed, None, False)) == 2
    unknown = judged.with_columns(top_confidences=pl.lit(None, pl.List(pl.Float64)))
    assert suspected_labels(samples(labels), CLASSES, unknown, None, True).is_empty()


def test_the_list_is_short_and_a_bad_judge_has_no_say() -> None:
    generator = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 50)
    labels = truth.copy()
    wrong = generator.choice(150, size=40, replace=False)
    labels[wrong] = (truth[wrong] + 1) % 3
    found = suspected_labels(samples(labels), CLASSES, predictions(labels, truth), None, True)
    assert len(found) == LEAST_LISTED
    noise = predictions(truth, generator.permutation(truth))
    assert suspected_labels(samples(truth), CLASSES, noise, None, True).is_empty()


def test_listed_probabilities_by_hand() -> None:
    frame = predictions(np.array([2, 0]), np.array([0, 0])).rename({"true_class_id": "class_id"})
    assert listed_probabilities(frame, 3).tolist() == [[0.9, 0.05, 0.05], [0.9, 0.05, 0.0]]


def test_the_map_shows_the_first_two_components() -> None:
    features = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    plane = pca_plane(features)
    wanted = PCA(2).fit_transform(features)
    assert np.abs(plane) == pytest.approx(np.abs(wanted), abs=1e-4)
    assert pca_plane(features[::-1])[::-1] == pytest.approx(plane, abs=1e-6)
    images = samples(np.zeros(20, dtype=int)).with_columns(pl.col("sample_id") + 20)
    found = image_map(images, features)
    assert found["sample_id"].to_list() == list(range(20, 40))
    for axis in ("x", "y"):
        assert (found[axis].min(), found[axis].max()) == (0, 1)


@pytest.mark.parametrize(("images", "width"), [(0, 4), (1, 4), (2, 4), (3, 1)])
def test_the_map_of_hardly_anything(images: int, width: int) -> None:
    features = np.eye(max(images, width), width, dtype=np.float32)
    found = image_map(samples(np.zeros(images, dtype=int)), features)
    assert len(found) == images
    for axis in ("x", "y"):
        assert found[axis].is_between(0, 1).all()


def test_umap_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.eye(4, dtype=np.float32)
    images = samples(np.zeros(4, dtype=int))
    monkeypatch.setattr(maps, "find_spec", lambda name: None)
    message = refusal(image_map, images, features, "umap")
    assert "pip install 'capt-stage[map]'" in message
    assert "report.projection=pca" in message


@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="extra [map] not installed")
def test_umap_repeats() -> None:
    features = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    images = samples(np.zeros(40, dtype=int))
    assert image_map(images, features, "umap").equals(image_map(images, features, "umap"))


BANK = pl.DataFrame(
    {
        "sample_id": [0, 1, 2],
        "path": ["0.png", "1.png", "2.png"],
        "true_class_id": [0, 0, 1],
        "predicted_class_id": [1, 1, 2],
        "confidence": [0.6, 0.9, 0.5],
    }
)
ERRORS = pl.DataFrame(
    {
        "sample_id": [7, 8, 9, 1],
        "true_class_id": [0, 2, 0, 0],
        "base_prediction_id": [1, 2, 2, 1],
        "prediction_id": [0, 1, 0, 1],
    }
)


def test_representatives_are_of_the_same_two_classes() -> None:
    features = np.zeros((10, 2), dtype=np.float32)
    features[[0, 7], 0] = 1
    features[[1, 2, 8, 9], 1] = 1
    found = with_representatives(ERRORS, BANK, features)["representative_path"].to_list()
    # Most similar; of the other direction; none of these classes; not the image itself.
    assert found == ["0.png", "2.png", None, "0.png"]
    surest = with_representatives(ERRORS, BANK, None)["representative_path"].to_list()
    assert surest == ["1.png", "2.png", None, "0.png"]
    for bank in (None, BANK.clear()):
        assert with_representatives(ERRORS, bank, features)["representative_path"].null_count() == 4


def test_confidences_of_all_seeds_and_thresholds_of_one() -> None:
    sure = pl.DataFrame({"confidence": [0.95] * 20, "correct": [True] * 19 + [False]})
    unsure = pl.DataFrame({"confidence": [0.55] * 20, "correct": [True, False] * 10})
    found = confidences([sure, unsure], [])
    assert found.reliability["images"].to_list() == [20, 20]
    assert found.reliability["accuracy"].to_list() == [0.5, 0.95]
    assert found.calibration == {"base": pytest.approx(2.5)}
    levels = {row["precision"]: row for row in found.precision.iter_rows(named=True)}
    assert (levels[0.9]["threshold"], levels[0.9]["coverage"]) == (0.95, 1)
    assert (levels[0.99]["threshold"], levels[0.99]["coverage"]) == (None, 0)
    calibrated = unsure.with_columns(calibrated_confidence=pl.lit(0.5))
    both = confidences([sure], [calibrated])
    assert both.calibration["calibrated"] == 0
    assert both.calibration["repaired"] == pytest.approx(5)
