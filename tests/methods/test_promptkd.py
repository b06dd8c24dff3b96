"""PromptKD: what is distilled on, what the teacher sees, and what a model keeps of it."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch.nn import functional

from capt_core.data.dataset import Dataset
from capt_core.data.images import Preprocess
from capt_core.errors import CaptError
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import fit_method
from capt_core.methods.frozen_teacher import FrozenTeacher, named
from capt_core.methods.image_training import train_on_unlabelled
from capt_core.methods.model_file import load_model
from capt_core.methods.prompting.zero_shot_reference import divergence
from capt_core.methods.promptkd import PromptedStudent, PromptKD
from capt_core.methods.registry import method_class
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from tests.methods.toy_task import named_dataset, quick, toy_task
from tests.refusals import refusal


def model(task: Task, **settings: Any) -> TrainedModel:
    return fit_method(quick("promptkd", epochs=1, batch_size=12, **settings), task)


def student(task: Task, **settings: Any) -> PromptedStudent:
    found = model(task, **settings).fitted
    assert isinstance(found, PromptedStudent)
    return found


@pytest.fixture(scope="module")
def transductive(task: Task) -> TrainedModel:
    return model(task)


@pytest.fixture(scope="module")
def inductive(task: Task) -> TrainedModel:
    return model(task, data="inductive")


def test_the_divergence_by_hand() -> None:
    # At T = 2, teacher logits (2 ln 3, 0) are shares 3/4 and 1/4; equal student logits are halves.
    teacher = torch.tensor([[3.0, 1.0]], dtype=torch.float64).log() * 2
    found = divergence(torch.zeros(1, 2, dtype=torch.float64), teacher, 2.0)
    assert found.item() == pytest.approx(0.75 * log(1.5) + 0.25 * log(0.5))


def test_the_loss_by_hand(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    # lambda T^2 / (B C) times the divergence above, here 1000 x 4 / (1 x 2).
    assert task.teacher is not None
    method = quick("promptkd", temperature=2.0)
    assert isinstance(method, PromptKD)
    teacher = FrozenTeacher(task.teacher, torch.ones(2, 64))
    loss = method.loss(task, method.start(task, torch.ones(4, 64)), teacher)
    logits = torch.tensor([[3.0, 1.0]], dtype=torch.float64).log() * 2
    monkeypatch.setattr(FrozenTeacher, "logits", lambda *_: logits)
    monkeypatch.setattr(type(loss), "logits", lambda *_: torch.zeros_like(logits))
    found, _ = loss(torch.zeros(0), torch.zeros(0))
    assert found.item() == pytest.approx(2000 * (0.75 * log(1.5) + 0.25 * log(0.5)))


@pytest.mark.parametrize(("name", "weight"), [("dtd", 200.0), ("flowers102", 200.0), ("x", 1000.0)])
def test_published_weights_of_the_divergence(name: str, weight: float) -> None:
    assert PromptKD().weight(name) == weight
    given = PromptKD.Settings.model_validate({"kd_weight": 3.0})
    assert PromptKD(given).weight(name) == 3.0


def test_what_either_setting_sees(transductive: TrainedModel, inductive: TrainedModel) -> None:
    assert transductive.sees == "unlabelled training images of all classes; names of all classes"
    assert inductive.sees == "base only"


def test_what_the_teacher_saw_was_seen(task: Task, inductive: TrainedModel) -> None:
    assert task.teacher is not None
    before = task.teacher.saw
    task.teacher.saw = ("an image",)
    try:
        assert inductive.fitted.method.sees(task, inductive.fitted) == ["an image (teacher)"]
    finally:
        task.teacher.saw = before


def relabelled(dataset: Dataset) -> Dataset:
    """The same images with other labels."""
    samples = dataset.samples.with_columns(class_id=(pl.col("class_id") + 1) % 4)
    return Dataset(dataset.name, samples, dataset.classes, dataset.fingerprint)


def test_no_label_is_used(task: Task, transductive: TrainedModel) -> None:
    other = replace(task, dataset=relabelled(task.dataset))
    found = student(other).state_dict()
    assert all(torch.equal(found[key], own) for key, own in learnt(transductive).items())


def learnt(fitted: TrainedModel) -> dict[str, torch.Tensor]:
    state = fitted.fitted.state_dict()
    return {name: value for name, value in state.items() if name != "class_vectors"}


def test_the_inductive_setting_sees_no_novel_name_or_image(
    task: Task, inductive: TrainedModel, transductive: TrainedModel, tmp_path: Path
) -> None:
    other = toy_task(
        task.backbone, tmp_path, named_dataset(("woven", "cracked", "lined", "veined"))
    )
    for path in tmp_path.rglob("c[23]/*.png"):
        path.unlink()
    found = learnt(model(other, data="inductive"))
    assert all(torch.equal(found[key], own) for key, own in learnt(inductive).items())
    assert not torch.equal(learnt(transductive)["image"], learnt(inductive)["image"])
    with pytest.raises(CaptError, match="png"):
        model(other)


def test_running_statistics_are_those_of_the_training(inductive: TrainedModel) -> None:
    state = learnt(inductive)
    assert state["projector.bn.num_batches_tracked"] == 1  # 12 images, one batch
    assert (state["projector.bn.running_mean"] != 0).any()


def test_another_teacher_is_another_training(task: Task) -> None:
    assert task.teacher is not None
    other = type(task.teacher)(task.teacher.method, replace(task.backbone, identity="tiny-clip@x"))
    assert task.key(PromptKD()) != replace(task, teacher=other).key(PromptKD())


def test_student_and_teacher_are_shown_the_same_crops(task: Task) -> None:
    style = task.backbone.preprocess
    small = replace(task.backbone, preprocess=Preprocess(style.size // 2, style.mean, style.std))
    method, shown = quick("promptkd", epochs=1, batch_size=6), []

    def loss_of(images: torch.Tensor, seen: torch.Tensor) -> Any:
        shown.append((images, seen))
        return fitted.image.sum(), {}

    assert isinstance(method, PromptKD)
    fitted = method.start(task, torch.ones(4, 64))
    ids = method.images(task).head(6)
    train_on_unlabelled(method, task, fitted, [fitted.image], ids, small, loss_of)
    ((images, seen),) = shown
    assert seen.shape == (6, 3, style.size // 2, style.size // 2)
    halved = functional.avg_pool2d(images, 2).flatten(1)
    alike = functional.cosine_similarity(halved[:, None], seen.flatten(1)[None], dim=2)
    assert torch.equal(alike.argmax(dim=1), torch.arange(6))
    assert (alike.diagonal() > 0.8).all()
    train_on_unlabelled(method, task, fitted, [fitted.image], ids, task.backbone, loss_of)
    assert shown[1][0] is shown[1][1]


def test_a_model_keeps_the_texts_of_its_classes_only(
    task: Task, transductive: TrainedModel, tmp_path: Path
) -> None:
    assert task.teacher is not None
    own, other = Classes.of(task.dataset), Classes.named(["wicker", "woven"])
    assert torch.equal(transductive.fitted.class_texts(own), task.teacher.class_texts(own))
    transductive.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model", task.backbone).fitted
    assert isinstance(loaded, PromptedStudent)
    assert torch.equal(loaded.class_texts(own), task.teacher.class_texts(own))
    message = refusal(loaded.class_texts, other)
    assert "of the 4 classes that it was fitted for, 'wicker' is none of them; give it" in message
    foreign = replace(task.backbone, identity="tiny-clip@x")
    other_teacher = type(task.teacher)(task.teacher.method, foreign)
    assert "not clip on tiny-clip@x" in refusal(loaded.take_teacher, other_teacher)
    other_teacher = fit_method(quick("coop", epochs=1), task).fitted
    loaded.taught_by = named(other_teacher)
    moved = fit_method(quick("coop", epochs=2), task).fitted
    assert "not coop on tiny-clip" in refusal(loaded.take_teacher, moved)
    loaded.taught_by = named(task.teacher)
    loaded.take_teacher(task.teacher)
    found = loaded.class_texts(other)
    assert torch.equal(found[:1], task.teacher.class_texts(other.only([0])))
    assert torch.equal(found[1:], task.teacher.class_texts(own)[:1])


def test_what_cannot_be_distilled_is_refused(task: Task) -> None:
    probe = method_class("tip_adapter")
    teacher = fit_method(probe(), task).fitted
    assert "teacher: tip_adapter tells images by more than class texts" in refusal(
        model, replace(task, teacher=teacher)
    )
    one = replace(task, fewshot=task.fewshot.head(1))
    assert "promptkd: needs two training images or more, proctex has 1" in refusal(
        model, one, data="inductive"
    )
