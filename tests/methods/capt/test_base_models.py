"""CAPT starts from any method that can be a base model: its answers are that method's at step 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from capt_core import params
from capt_core.backbone.loading import Backbone, load_backbone
from capt_core.errors import CaptError
from capt_core.methods.capt.experts import Masks
from capt_core.methods.capt.method import FittedCapt
from capt_core.methods.capt.model import CaptModel
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import base_method, fit_method
from capt_core.methods.method import Fitted, Method
from capt_core.methods.model_file import load_model
from capt_core.methods.registry import method_class, method_names
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from tests.methods.toy_task import mined, quick, toy_task
from tests.refusals import refusal


def can_be_base(name: str) -> bool:
    try:
        base_method(name, "here")
    except CaptError:
        return False
    return True


BASES = [name for name in method_names() if can_be_base(name)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(params.Backbone(), params.Runtime(device="cpu"))


@pytest.fixture(scope="module")
def task(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Task:
    return toy_task(backbone, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all fits, so that one could take what another has left."""
    return tmp_path_factory.mktemp("work")


_towers: set[str] = set()
_fitted: dict[str, Fitted] = {}


def base_of(name: str, task: Task) -> Fitted:
    """A base model fitted once for all tests."""
    if name not in _fitted:
        _fitted[name] = fit_method(quick(name), task).fitted
    return _fitted[name]


def capt(**changes: Any) -> Method:
    """CAPT for the toy task, one epoch of it."""
    train = {"epochs": 1, "batch_size": 4} | changes.pop("train", {})
    losses = {"confusion_weight": 0.1, "retention_names": "generic"}
    return quick("capt", train=train, losses=losses, **changes)


def on(name: str, task: Task, method: Method, work: Path | None = None) -> TrainedModel:
    return fit_method(method, replace(task, base_model=base_of(name, task), work=work))


def images(task: Task) -> torch.Tensor:
    size = task.backbone.preprocess.size
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_the_methods_of_table_9_are_among_them() -> None:
    assert {"clip", "coop", "maple", "tac", "promptkd"} <= set(BASES)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("blocks", [1, "all"])
def test_nothing_trained_is_the_base_model_bit_for_bit(name: str, blocks: Any, task: Task) -> None:
    base, seen = base_of(name, task), images(task)
    untrained = capt(adapter={"blocks": blocks}, class_texts={"difference_weight": 0.0})
    settings = untrained.settings
    centres = mined(64).centres
    model = CaptModel(base.image_tower, centres, settings.adapter, settings.experts)
    started = FittedCapt(untrained, base, model)
    classes = Classes.of(task.dataset)
    with torch.no_grad():
        assert torch.equal(started.encode(seen), base.encode(seen))
        assert torch.equal(started.image_features(seen), base.image_features(seen))
        assert torch.equal(started.class_texts(classes), base.class_texts(classes))
        assert torch.equal(started(seen, classes), base(seen, classes))
        # In training as well, whatever is masked and however alpha is drawn.
        tokens = model.frozen_prefix(seen)
        masks = Masks.draw(len(model.experts.names), 3, model.width, 0.3, torch.Generator())
        alphas = torch.tensor([0.5, 2.0, 5.0])
        assert torch.equal(model.features(tokens, alphas, masks)[0], base.encode(seen))
        assert torch.equal(model.base_features(tokens), base.encode(seen))
        quick_features, _ = model.features(tokens, alphas, masks, class_token_only=True)
        torch.testing.assert_close(quick_features, base.encode(seen), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BASES)
def test_a_fit_of_which_nothing_is_kept_gives_the_base_model(
    name: str, task: Task, work: Path
) -> None:
    without = capt(
        class_texts={"difference_weight": 0.0},
        experts={"granularities": ["sample", "commonality", "difference"]},
        whitening={"shrinkage": 1.0},
    )
    before = {key: value.clone() for key, value in base_of(name, task).state_dict().items()}
    found, base = on(name, task, without, work).fitted, base_of(name, task)
    assert isinstance(found, FittedCapt)
    classes, seen = Classes.of(task.dataset), images(task)
    with torch.no_grad():
        assert not torch.equal(found(seen, classes), base(seen, classes))
        found.model.interpolate(0.0)
        assert torch.equal(found(seen, classes), base(seen, classes))
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    # Cached views are shared with no base model that has another tower.
    _towers.add("frozen" if base.frozen_tower else name)
    assert len(list((work / "prefix").iterdir())) == len(_towers)


@pytest.mark.parametrize("name", BASES)
def test_a_trained_one_comes_back_from_its_file_alone(
    name: str, task: Task, tmp_path: Path
) -> None:
    model, seen = on(name, task, capt()), images(task)
    model.save(tmp_path / "model.safetensors")
    model.save(tmp_path / "portable", with_backbone=True)
    fresh = load_backbone(params.Backbone(), params.Runtime(device="cpu"))
    with torch.no_grad():
        scores, start = model(seen), model.fitted.start
        base = base_of(name, task)
        texts = Classes.of(task.dataset)
        assert not torch.equal(scores, base(seen, texts))
        assert start is base
        for loaded in (
            load_model(tmp_path / "model.safetensors", fresh),
            load_model(tmp_path / "portable"),
        ):
            assert torch.equal(loaded(seen), scores)
            found = loaded.fitted
            assert torch.equal(found.start(seen, loaded.classes), base(seen, texts))
            features, plain = found.encode_with_start(seen, found.start)
            assert torch.equal(features, model.fitted.encode(seen))
            assert torch.equal(plain, base.encode(seen))
    assert set(base.method.sees(task, base)) <= set(model.sees.split("; "))


@pytest.mark.parametrize("name", sorted(set(method_names()) - set(BASES)))
def test_what_cannot_be_a_base_model_is_refused_in_one_line(name: str) -> None:
    message = refusal(base_method, name, "fit_teacher.method")
    assert message.startswith(f"fit_teacher.method: {name} ")
    assert message.endswith("; choose another, such as clip or coop")


@pytest.mark.parametrize(
    "name", [name for name in method_names() if not method_class(name).compares_texts]
)
def test_a_model_that_capt_cannot_start_from_is_refused_before_the_fit(
    name: str, task: Task, backbone: Backbone
) -> None:
    given = replace(task, base_model=Fitted(quick(name), backbone))
    message = refusal(fit_method, capt(), given)
    assert message.startswith(f"base_model: {name} tells images by more than class texts")
