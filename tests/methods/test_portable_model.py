"""A model file with its backbone inside: it needs nothing else, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from capt_core.artifacts.tensors import load_tensors, write_tensors
from capt_core.backbone.loading import Backbone
from capt_core.methods.fitting import fit_method
from capt_core.methods.model_file import load_model
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from capt_core.params import load_settings
from stages.models import trained_model
from tests.backbone.small_model import as_safetensors, load, small_weights
from tests.methods.toy_task import quick, toy_task
from tests.refusals import refusal


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A small model of open_clip's with weights from a file."""
    folder = tmp_path_factory.mktemp("small")
    return load(as_safetensors(small_weights(folder), folder))


@pytest.fixture(scope="module")
def model(small: Backbone, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return fit_method(quick("clip"), toy_task(small, tmp_path_factory.mktemp("images")))


def pixels(model: TrainedModel) -> torch.Tensor:
    size = model.preprocess.size
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["clip", "coop", "capt"])
def test_the_embedded_backbone_travels_too(method: str, task: Task, tmp_path: Path) -> None:
    model = fit_method(quick(method), task)
    model.save(tmp_path / "a", with_backbone=True)
    model.save(tmp_path / "b", with_backbone=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = load_model(tmp_path / "a")
    assert torch.equal(loaded(pixels(model)), model(pixels(model)))
    assert loaded.preprocess == model.preprocess
    assert loaded.provenance == model.provenance


def test_another_backbone_needs_no_settings(model: TrainedModel, tmp_path: Path) -> None:
    path = tmp_path / "model"
    model.save(path, with_backbone=True)
    settings, _ = load_settings(None, None, ["backbone.checkpoint=nowhere.pt"])
    for loaded in (load_model(path), trained_model(path, settings)):
        assert torch.equal(loaded(pixels(model)), model(pixels(model)))
    # A backbone that is given is taken, so that models share it.
    given = model.fitted.backbone
    assert load_model(path, given).fitted.backbone is given


def test_without_it_the_settings_that_name_it_are_asked_for(
    model: TrainedModel, small: Backbone, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    model.save(path)
    settings, _ = load_settings(None, None, [])
    message = refusal(trained_model, path, settings)
    assert "--set backbone.name=capt-test-vit --set backbone.checkpoint=FILE" in message
    given = ["backbone.name=capt-test-vit", f"backbone.checkpoint={small.source}"]
    loaded = trained_model(path, load_settings(None, None, given)[0])
    assert torch.equal(loaded(pixels(model)), model(pixels(model)))


def test_the_embedded_one_is_at_hand_whatever_the_settings_say(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "model"
    fit_method(quick("clip"), task).save(path)
    settings, _ = load_settings(None, None, ["backbone.checkpoint=nowhere.pt"])
    assert trained_model(path, settings).fitted.backbone.identity == task.backbone.identity


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "ViT-B-99"}, "unknown model 'ViT-B-99'"),
        ({"config": {"embed_dim": 10**12}}, "another configuration of capt-test-vit"),
        ({"name": "tiny-clip"}, "another configuration of tiny-clip"),
        ({"std": [0.0, 1.0, 1.0]}, "holds no trained model"),
        ({"mean": [float("nan"), 1.0, 1.0]}, "holds no trained model"),
        ({"size": 64}, "images of 64 pixels"),
        ({"size": 10**9}, "holds no trained model"),
    ],
)
def test_a_backbone_that_is_none_is_refused(
    changes: dict[str, Any], said: str, model: TrainedModel, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    model.save(path, with_backbone=True)
    saved = load_tensors(path, "")
    tensors = {name: value.clone() for name, value in saved.tensors.items()}
    facts = saved.facts | {"backbone": saved.facts["backbone"] | changes}
    write_tensors(path, tensors, facts, model.provenance)
    message = refusal(load_model, path)
    assert said in message
    assert str(path) in message


def test_weights_of_another_shape_are_refused(model: TrainedModel, tmp_path: Path) -> None:
    path = tmp_path / "model"
    model.save(path, with_backbone=True)
    saved = load_tensors(path, "")
    tensors = {name: value.clone() for name, value in saved.tensors.items()}
    tensors["backbone.text_projection"] = torch.zeros(3, 3)
    write_tensors(path, tensors, saved.facts, model.provenance)
    assert "1 tensors are missing, unknown or of another shape" in refusal(load_model, path)
