"""Calibration of fitted models, and what `predict` makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from PIL import Image

import capt_core
from capt_core.evaluation.calibration import Calibration, fit_calibration
from capt_core.methods import calibrating
from capt_core.methods.calibrating import calibrate, calibration_images
from capt_core.methods.predicting import PREDICT_COLUMNS
from capt_core.methods.trained import TrainedModel
from capt_core.reporter import Reporter
from tests.refusals import refusal

QUICK = {"train": {"epochs": 1}}


@pytest.fixture(scope="module")
def backbone() -> capt_core.Backbone:
    return capt_core.load_backbone()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> capt_core.Dataset:
    """Four classes of noisy stripes: 8 training, 8 validation and 1 test image each."""
    root = tmp_path_factory.mktemp("stripes")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("val", 8), ("test", 1)):
        for number, name in enumerate(("banded", "grid", "plain", "wide")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(0, 120, (32, 32, 3), generator=generator)
                pixels[:: number + 2] += 120
                image = Image.fromarray(pixels.to(torch.uint8).numpy())
                image.save(folder / f"{index}.png")
    return capt_core.open_folder(root)


@pytest.fixture(scope="module")
def trained(dataset: capt_core.Dataset, backbone: capt_core.Backbone) -> list[int]:
    """Ids of the classes that are trained."""
    return dataset.class_ids("base")


@pytest.fixture(scope="module")
def model(dataset: capt_core.Dataset, backbone: capt_core.Backbone) -> TrainedModel:
    return capt_core.fit("clip", dataset, backbone, calibrate=False)


def files(dataset: capt_core.Dataset, split: str = "val") -> list[Path]:
    return list(dataset.paths(dataset.samples.filter(split=split)["sample_id"]))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a handful of images do."""
    monkeypatch.setattr(calibrating, "LEAST_IMAGES", 4)
    monkeypatch.setattr("capt_core.evaluation.calibration.LEAST_IMAGES", 4)


def test_images_are_validation_images_of_trained_classes(
    dataset: capt_core.Dataset, trained: list[int]
) -> None:
    ids = calibration_images(dataset, most=2000, seed=1)
    rows = dataset.samples.filter(pl.col("sample_id").is_in(ids.implode()))
    assert set(rows["split"]) == {"val"}
    assert set(rows["class_id"]) == set(trained)
    assert len(rows) == 8 * len(trained)
    drawn = calibration_images(dataset, most=5, seed=1)
    assert drawn.is_sorted()
    assert set(drawn) < set(ids)
    assert drawn.equals(calibration_images(dataset, most=5, seed=1))
    assert not drawn.equals(calibration_images(dataset, most=5, seed=2))


@pytest.mark.usefixtures("few")
def test_calibration_is_that_of_the_scores_predict_uses(
    dataset: capt_core.Dataset, model: TrainedModel
) -> None:
    found = calibrate(model, dataset, most=2000, precision=0.5)
    ids = calibration_images(dataset, 2000, 1)
    images = [model.preprocess(Image.open(path)) for path in dataset.paths(ids)]
    with torch.no_grad():
        logits = model(torch.stack(images))
    labels = dataset.samples["class_id"].gather(ids).to_list()
    expected = fit_calibration(logits.numpy(), labels, 0.5)
    assert found is not None
    assert expected is not None
    assert found.temperature == pytest.approx(expected.temperature, rel=1e-3)
    assert found.images == len(ids)
    assert found.accuracy == (logits.argmax(dim=1) == torch.tensor(labels)).float().mean().item()


def test_too_few_images_and_none_asked_for_calibrate_nothing(
    dataset: capt_core.Dataset, model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    reporter = Reporter(say=said.append)
    monkeypatch.setattr(calibrating, "LEAST_IMAGES", 1000)
    assert calibrate(model, dataset, 2000, 0.95, reporter=reporter) is None
    assert "validation images of trained classes, 1000 are needed" in said.pop()
    assert calibrate(model, dataset, 0, 0.95, reporter=reporter) is None
    assert said == []


@pytest.mark.usefixtures("few")
def test_an_unreadable_validation_image_costs_no_model(
    dataset: capt_core.Dataset, model: TrainedModel, tmp_path: Path
) -> None:
    warned: list[str] = []
    elsewhere = replace(dataset, image_root=tmp_path)
    assert calibrate(model, elsewhere, 2000, 0.95, reporter=Reporter(warn=warned.append)) is None
    assert "confidences are not calibrated: " in warned[0]


def test_calibration_is_kept_in_the_file(
    model: TrainedModel, backbone: capt_core.Backbone, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    assert capt_core.load_model(path, backbone).calibration is None
    for threshold in (0.75, None):
        fitted = Calibration(1.5, threshold, 0.95, 40, 0.9)
        TrainedModel(model.fitted, model.classes, "", 1, model.provenance, fitted).save(path)
        assert capt_core.load_model(path, backbone).calibration == fitted
    bad = Calibration(-1.0, None, 0.95, 40, 0.9)
    TrainedModel(model.fitted, model.classes, "", 1, model.provenance, bad).save(path)
    assert "holds no trained model" in refusal(capt_core.load_model, path, backbone)


def test_temperature_changes_confidences_and_no_answer(
    dataset: capt_core.Dataset, model: TrainedModel
) -> None:
    fitted = Calibration(3.0, 0.5, 0.95, 40, 0.9)
    warm = TrainedModel(model.fitted, model.classes, "", 1, model.provenance, fitted)
    plain, calibrated = (each.predict(files(dataset)) for each in (model, warm))
    assert plain["prediction"].equals(calibrated["prediction"])
    assert plain["base_confidence"].equals(calibrated["base_confidence"])
    with torch.no_grad():
        logits = warm(model.preprocess(Image.open(files(dataset)[0]))[None])
    expected = (logits.double() / 3).softmax(dim=1).max().item()
    assert calibrated["confidence"][0] == pytest.approx(expected, abs=1e-6)
    assert plain["unsure"].null_count() == len(plain)
    assert calibrated["unsure"].to_list() == [one < 0.5 for one in calibrated["confidence"]]
    assert calibrated["top_confidences"].list.first().equals(calibrated["confidence"])


def test_answers_of_zero_shot_clip_stand_beside_those_of_a_method(
    dataset: capt_core.Dataset, backbone: capt_core.Backbone, model: TrainedModel
) -> None:
    learned = capt_core.fit("coop", dataset, backbone, shots=2, settings={"epochs": 30})
    table, zero_shot = (each.predict(files(dataset)) for each in (learned, model))
    assert table["base_prediction"].equals(zero_shot["prediction"])
    assert table["base_confidence"].to_list() == pytest.approx(zero_shot["confidence"].to_list())
    changed = table["prediction"] != table["base_prediction"]
    assert table["changed"].equals(changed.alias("changed"))
    assert not zero_shot["changed"].any()
    assert table.schema == PREDICT_COLUMNS


@pytest.mark.parametrize("base", ["coop", "promptsrc"])
def test_answers_of_its_base_model_stand_beside_those_of_capt(
    base: str, dataset: capt_core.Dataset, backbone: capt_core.Backbone
) -> None:
    start = capt_core.fit(base, dataset, backbone, shots=2, settings={"epochs": 1})
    model = capt_core.fit("capt", dataset, backbone, shots=2, base_model=start, settings=QUICK)
    before, after = (each.predict(files(dataset)) for each in (start, model))
    assert after["base_prediction"].equals(before["prediction"].alias("base_prediction"))
    assert start.calibration is None
    expected = pytest.approx(before["confidence"].to_list(), abs=1e-4)
    assert after["base_confidence"].to_list() == expected
    # Running the shared blocks once changes nothing of CAPT's own answer.
    images = torch.stack([model.preprocess(Image.open(path)) for path in files(dataset)])
    with torch.no_grad():
        alone = model(images).argmax(dim=1)
    names = [model.class_names[place] for place in alone]
    assert after["prediction"].to_list() == names


def test_bad_images_are_rows_where_they_are_asked_for(
    dataset: capt_core.Dataset, model: TrainedModel, tmp_path: Path
) -> None:
    good, bad = files(dataset)[0], tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    given: list[Path | str | Image.Image] = [
        bad,
        good,
        "nowhere.png",
        Image.new("F", (40, 40)),
        str(tmp_path / "caf\udce9.png"),
        good,
        "a\0b.png",
    ]
    table = model.predict(given, on_bad_image="report", batch_size=2)
    assert table["path"].to_list() == [
        str(bad),
        str(good),
        "nowhere.png",
        None,
        str(tmp_path / "caf\\xe9.png"),
        str(good),
        "a\0b.png",
    ]
    assert table["problem"].is_null().to_list() == [False, True, False, False, False, True, False]
    assert table["problem"][2] == "image missing"
    assert "floating-point" in table["problem"][3]
    assert "UTF-8" in table["problem"][4]
    answers = table.drop("path", "problem", "unsure")
    assert answers[1].equals(answers[5])
    assert answers[1].null_count().sum_horizontal().item() == 0
    assert answers[0].null_count().sum_horizontal().item() == answers.width
    assert answers[1].equals(model.predict(good).drop("path", "problem", "unsure"))
    only_bad = model.predict(bad, on_bad_image="report")
    assert only_bad.schema == PREDICT_COLUMNS
    assert len(only_bad) == 1


def test_mistakes_of_predict_are_one_line(model: TrainedModel) -> None:
    message = refusal(model.predict, "a.png", on_bad_image="skip")
    assert message == "on_bad_image='skip': expected error or report"
    assert "not valid UTF-8" in refusal(model.predict, "caf\udce9.png")
