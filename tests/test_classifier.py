"""The scikit-learn classifier: scikit-learn's own checks, kinds of images, and what it reports."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

import capt_core
from capt_core.classifier import ClassifierError
from capt_core.data.proctex import CLASS_NAMES, render_image
from tests.refusals import refusal

CLASSES = CLASS_NAMES[:3]
QUICK = {"train": {"epochs": 1}}


@cache
def tiny() -> capt_core.Backbone:
    return capt_core.load_backbone(device="cpu")


@cache
def textures() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Ten drawn textures of each class, uint8 [30, 64, 64, 3], and their names."""
    images = [render_image(1, "train", label, index) for label in range(3) for index in range(10)]
    return np.stack(images), np.repeat(CLASSES, 10)


def classifier(**settings: Any) -> capt_core.ConfusionAwareClassifier:
    return capt_core.ConfusionAwareClassifier(tiny(), **{"method": "clip", **settings})


class OnFeatures(capt_core.ConfusionAwareClassifier):
    """The classifier on rows of numbers, each drawn as grey bars.

    scikit-learn runs its checks on [N, F] arrays only. Drawn as images, all but the checks below
    apply to the classifier as it stands.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = tags.input_tags.string = False
        return tags

    def fit(self, X: Any, y: Any) -> OnFeatures:  # noqa: N803
        super().fit(bars(X), y)
        return self

    def _scores(self, given: Any) -> np.ndarray[Any, Any]:
        return super()._scores(bars(given) if hasattr(self, "model_") else given)

    def _loaded(self) -> capt_core.Backbone:
        return tiny()


def bars(rows: Any) -> Any:
    if not isinstance(rows, list) and not hasattr(rows, "__array__"):
        return rows
    values = np.asarray(rows)
    if values.ndim != 2 or values.dtype.kind not in "fiuO":
        return values
    values = values.astype(float)
    grey = np.where(np.isfinite(values), 1 / (1 + np.exp(-values)), values)
    return [np.kron(row[None], np.ones((8, 8))) for row in grey]


EXPECTED = {
    "check_n_features_in": "images have sides, not a number of features",
    "check_n_features_in_after_fitting": "images have sides, not a number of features",
    "check_estimators_empty_data_messages": "an image without pixels is refused in other words",
    "check_complex_data": "complex arrays are refused, in other words",
    "check_methods_subset_invariance": "the last digits of float32 depend on the batch",
}


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [OnFeatures(method="linear_probe", settings={"strength": 1.0})],
    expected_failed_checks=lambda _: EXPECTED,
)
def test_scikit_learns_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.filterwarnings("ignore:Can't test estimator")
def test_its_own_tags_leave_scikit_learn_the_checks_without_images() -> None:
    found = check_estimator(capt_core.ConfusionAwareClassifier())
    assert [each["status"] for each in found] == ["passed"]
    assert not capt_core.ConfusionAwareClassifier().__sklearn_tags__().input_tags.two_d_array


@pytest.fixture(scope="module")
def repaired() -> capt_core.ConfusionAwareClassifier:
    images, labels = textures()
    return classifier(method="capt", settings=QUICK, validation_fraction=0.5).fit(images, labels)


def test_confusions_are_those_of_held_out_images(
    repaired: capt_core.ConfusionAwareClassifier,
) -> None:
    images, labels = textures()
    found = repaired.confusions_
    assert len(repaired.held_out_) == 15
    assert found["held_out"].all()
    assert set(found["model"]) <= {"base", "repaired"}
    for model, fitted in (("base", repaired.base_model_), ("repaired", repaired.model_)):
        held_out = [Image.fromarray(images[at]) for at in repaired.held_out_]
        taken_for = capt_core.predict(fitted, held_out)["prediction"].to_list()
        wrong = {
            (int(at), labels[at], name)
            for at, name in zip(repaired.held_out_, taken_for, strict=True)
            if labels[at] != name
        }
        rows = found.filter(model=model)
        told = rows.explode("images").select("images", "true", "predicted").iter_rows()
        assert set(told) == wrong
        assert rows["count"].to_list() == rows["images"].list.len().to_list()
        assert rows["rate"].to_list() == (rows["count"] / 5).to_list()
    assert len(found.filter(model="base")) > 0


def test_probabilities_scores_and_labels_agree(
    repaired: capt_core.ConfusionAwareClassifier,
) -> None:
    images, labels = textures()
    likely = repaired.predict_proba(images)
    assert likely.shape == (30, 3)
    assert np.allclose(likely.sum(axis=1), 1)
    assert (repaired.classes_[likely.argmax(axis=1)] == repaired.predict(images)).all()
    assert (repaired.decision_function(images).argmax(axis=1) == likely.argmax(axis=1)).all()
    assert repaired.score(images, labels) == (repaired.predict(images) == labels).mean()
    copy = pickle.loads(pickle.dumps(repaired))
    assert np.array_equal(copy.predict_proba(images), likely)


def test_all_kinds_of_images_give_the_same_scores(
    repaired: capt_core.ConfusionAwareClassifier, tmp_path: Path
) -> None:
    images = textures()[0][:4]
    expected = repaired.predict_proba(images)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    alpha = np.full((*images.shape[:3], 1), 255, dtype=np.uint8)
    for given in (
        paths,
        np.array([str(path) for path in paths]),
        np.array([[str(path)] for path in paths], dtype=object),
        pl.Series([str(path) for path in paths]),
        pl.DataFrame({"file": [str(path) for path in paths]}),
        [Image.open(path) for path in paths],
        list(images),
        images / 255,
        (images / 255).astype(np.float32),
        np.concatenate([images, alpha], axis=3),
        [paths[0], Image.open(paths[1]), images[2], str(paths[3])],
    ):
        assert np.array_equal(repaired.predict_proba(given), expected)
    grey = images[:, :, :, 0]
    as_rgb = repaired.predict_proba(np.stack([grey] * 3, axis=3))
    assert np.array_equal(repaired.predict_proba(grey), as_rgb)
    assert np.array_equal(repaired.predict_proba(grey[..., None]), as_rgb)


def test_files_and_arrays_fit_the_same_model(tmp_path: Path) -> None:
    images, labels = textures()
    paths = []
    for index, image in enumerate(images):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(image).save(paths[-1])
    # Its views are cropped from the images themselves, not taken from stored features.
    settings = {"epochs": 1, "templates": 2}
    fits = [
        classifier(method="promptsrc", settings=settings).fit(given, labels)
        for given in (images, paths)
    ]
    first, second = (fit.predict_proba(images) for fit in fits)
    assert np.array_equal(first, second)


def test_it_works_where_scikit_learn_puts_estimators() -> None:
    images, labels = textures()
    probe = classifier(method="linear_probe", settings={"strength": 1.0})
    assert clone(probe).backbone is tiny()
    scores = cross_val_score(probe, images, labels, cv=2)
    assert scores.shape == (2,)
    assert scores.min() > 0.4
    turned = make_pipeline(FunctionTransformer(np.flip), probe).fit(images, labels)
    assert turned.predict(images).shape == (30,)
    search = GridSearchCV(probe, {"method": ["clip", "linear_probe"], "settings": [None]}, cv=2)
    search.fit(list(images), labels)
    grid = GridSearchCV(probe, {"shots": np.arange(1, 3)}, cv=2, error_score="raise")
    assert "Backbone tiny-clip" in repr(grid.fit(images, labels))
    assert len(repr(grid)) < 1000
    assert search.best_params_["method"] == "linear_probe"
    assert isinstance(search.best_estimator_.model_, capt_core.TrainedModel)


def test_labels_may_be_numbers_with_names_of_their_own() -> None:
    images, _ = textures()
    labels = np.repeat([3, -1, 7], 10)
    names = {3: "striped", 7: "dotted lines"}
    fitted = classifier(class_names=names).fit(images, labels)
    assert fitted.classes_.tolist() == [-1, 3, 7]
    assert fitted.model_.class_names == ("-1", "striped", "dotted lines")
    assert fitted.predict(images[:2]).dtype == labels.dtype
    assert fitted.confusions_.schema["true"] == pl.Int64
    assert fitted.method == "clip"
    assert fitted.base_model_ is fitted.model_


def test_with_nothing_held_out_training_images_are_counted() -> None:
    images, labels = textures()
    fitted = classifier(validation_fraction=0).fit(images, labels)
    assert fitted.held_out_.tolist() == []
    assert not fitted.confusions_["held_out"].any()
    wrong = int((fitted.predict(images) != labels).sum())
    assert fitted.confusions_.filter(model="base")["count"].sum() == wrong > 0


def test_a_class_of_one_image_is_trained_with_it() -> None:
    images, labels = textures()
    fitted = classifier(validation_fraction=0.9).fit(images[:21], labels[:21])
    assert len(fitted.classes_) == 3
    assert 20 not in fitted.held_out_
    assert len(fitted.held_out_) == 18


def test_mistakes_are_one_line_and_value_errors(tmp_path: Path) -> None:
    images, labels = textures()
    (tmp_path / "no.png").write_text("no image")
    fitted = classifier().fit(images, labels)
    with pytest.raises(NotFittedError):
        classifier().predict(images)
    with pytest.raises(ValueError, match="give uint8") as caught:
        fitted.predict([images[0].astype(np.int64)])
    assert isinstance(caught.value, capt_core.CaptError)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: fitted.predict("a.png"), "X: expected several images, found one"),
        (lambda: fitted.predict(images[0]), "is one image; put it into a list"),
        (lambda: fitted.predict(images.reshape(30, -1)), "Reshape your data"),
        (lambda: fitted.predict(images.transpose(0, 3, 1, 2)), "put the channels last"),
        (lambda: fitted.predict(images * 1.0), "expected 0 to 1: scale them, or give uint8"),
        (lambda: fitted.predict(np.full(images.shape, np.nan)), "X[0]: an array that holds NaN"),
        (lambda: fitted.predict(images.astype(np.uint16)), "X[0]: an array of uint16; give uint8"),
        (lambda: fitted.predict([]), "X: found 0 images"),
        (lambda: fitted.predict(7), "X: expected a list or array of files"),
        (lambda: fitted.predict([None]), "X[0]: found None; expected files"),
        (lambda: fitted.predict([b"abc"]), "X[0]: found b'abc'; expected files"),
        (lambda: fitted.predict({"a": 1}), "X: expected a list or array of files"),
        (lambda: fitted.predict([Image.new("F", (8, 8))]), "X[0]: floating-point pixels"),
        (lambda: fitted.predict([tmp_path / "none.png"]), "image missing"),
        (lambda: classifier().fit([tmp_path / "no.png"] * 30, labels), "X[0]: "),
        (lambda: classifier().fit(images, labels[:-1]), "X holds 30 images, y 29 labels"),
        (lambda: classifier().fit(images, ["a"] * 30), "number of classes has to be greater"),
        (lambda: classifier().fit(images, np.linspace(0, 1, 30)), "y: Unknown label type"),
        (lambda: classifier().fit(images, None), "requires y to be passed"),
        (lambda: classifier().fit(images, ["", *labels[1:]]), "class 0 has an empty name"),
        (lambda: classifier(class_names=["a"]).fit(images, labels), "class_names: expected labels"),
        (lambda: classifier(template="a photo").fit(images, labels), "template 'a photo'"),
        (lambda: classifier(method="cap").fit(images, labels), "unknown method 'cap'"),
        (lambda: classifier(method=["clip"]).fit(images, labels), "method: expected the name of"),
        (lambda: classifier(base_model=None).fit(images, labels), "base_model: expected the name"),
        (lambda: classifier().fit(images, ["a", "A"] * 15), "not tell them apart, rename one"),
        (
            lambda: classifier().fit(images, labels).set_params(workers="a").predict(images),
            "worker",
        ),
        (lambda: classifier(shots=-1).fit(images, labels), "shots"),
        (lambda: classifier(seed=0.5).fit(images, labels), "seed: should be a whole number"),
        (lambda: classifier(validation_fraction=1).fit(images, labels), "validation_fraction=1"),
        (lambda: classifier(validation_fraction="a").fit(images, labels), "validation_fraction: "),
        (
            lambda: capt_core.ConfusionAwareClassifier("ViT-B-99").fit(images, labels),
            "ViT-B-99",
        ),
        (
            lambda: capt_core.ConfusionAwareClassifier(3).fit(images, labels),  # type: ignore[arg-type]
            "backbone: expected a Backbone or the name of one, found 3",
        ),
    ]
    for call, part in calls:
        assert part in refusal(call)
    assert issubclass(ClassifierError, ValueError)
