"""Evidence beside zero-shot logits: classes with and without images, by hand."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch

from capt_core.backbone.loading import Backbone
from capt_core.methods.classes import Classes
from capt_core.methods.clip import Clip
from capt_core.methods.fitting import fit_method
from capt_core.methods.image_evidence import (
    LabelledImages,
    WithEvidence,
    shared_classes,
    with_evidence,
)
from capt_core.methods.registry import method_class
from capt_core.methods.task import Task
from tests.methods.toy_task import NAMES, quick
from tests.refusals import refusal

METHODS = ("tip_adapter", "tip_adapter_f", "gda")


def test_evidence_by_hand() -> None:
    zero_shot = torch.tensor([[1.0, 2.0, 3.0]])
    evidence = torch.tensor([[6.0, 0.0]])
    # Both classes with images, in the other order, and nothing else: as published.
    found = with_evidence(zero_shot[:, :2], evidence, [1, 0], [0, 1], 0.5)
    assert found.tolist() == [[1.0, 5.0]]
    # The third class has no image. Of e^2 + e^2 = 2 e^2 together, evidence of ln 3 gives the
    # first class three quarters: 3/2 e^2, and 1/2 e^2 to the second.
    even, tripled = torch.tensor([[2.0, 2.0, 3.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    found = with_evidence(even, tripled, [0, 1], [0, 1], 0.5)
    assert found.tolist()[0] == pytest.approx([2 + math.log(1.5), 2 - math.log(2), 3.0])
    # A single class with images keeps what zero-shot CLIP gives it.
    assert with_evidence(zero_shot[:, 1:], evidence, [0], [1], 0.5).tolist() == [[2.0, 3.0]]
    assert with_evidence(zero_shot, evidence, [], [], 0.5).tolist() == zero_shot.tolist()
    assert zero_shot.tolist() == [[1.0, 2.0, 3.0]]


def test_classes_are_matched_by_name() -> None:
    asked = Classes.named(["bumpy", "b", "woven", "a"])
    assert shared_classes(("a", "b", "c"), asked) == ([1, 0], [1, 3])


def test_only_classes_with_images_have_evidence(task: Task) -> None:
    missing = task.dataset.class_ids("base")[0]
    some = task.fewshot.filter((pl.col("class_id") != missing) | (pl.col("split") == "val"))
    bare = Task(
        task.dataset, some, task.backbone, seed=1, shots=16, features=task.features, work=None
    )
    images = LabelledImages.of(bare)
    assert images.names == ("cracked",)
    assert set(images.labels.tolist()) == {0}
    for name in METHODS:
        fitted = fit_method(quick(name), bare).fitted
        assert isinstance(fitted, WithEvidence)
        assert fitted.names == ("cracked",)
        assert fitted.logits(images.features, Classes.of(task.dataset)).isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_novel_classes_are_told_by_their_texts(name: str, task: Task) -> None:
    assert task.features is not None
    features, classes = task.features(), Classes.of(task.dataset)
    fitted = fit_method(quick(name), task).fitted
    assert isinstance(fitted, WithEvidence)
    plain = Clip().fit(task).logits(features, classes)
    logits = fitted.logits(features, classes)
    assert torch.equal(logits[:, 2:], plain[:, 2:])
    together, before = logits.softmax(dim=1), plain.softmax(dim=1)
    torch.testing.assert_close(together[:, :2].sum(dim=1), before[:, :2].sum(dim=1))
    assert (together - before).abs().max() > 0.01
    # Among base classes alone, the same choices with the same confidence.
    base = Classes(NAMES[:2], classes.templates[:2])
    alone = fitted.logits(features, base)
    torch.testing.assert_close(alone.softmax(dim=1), logits[:, :2].softmax(dim=1))
    torch.testing.assert_close(
        alone, plain[:, :2] + fitted.alpha * fitted.evidence(features), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("name", METHODS)
def test_what_is_left_open_is_chosen_on_validation_images(
    name: str, task: Task, backbone: Backbone
) -> None:
    assert fit_method(quick(name), task).sees.startswith("validation images (alpha")
    given = {"alpha": 0.5} if name == "gda" else {"alpha": 0.5, "beta": 2.0}
    without = Task(
        task.dataset,
        task.fewshot.filter(split="train"),
        backbone,
        seed=1,
        shots=16,
        features=task.features,
    )
    fixed = fit_method(quick(name, **given), without)
    assert fixed.sees == "base only"
    assert isinstance(fixed.fitted, WithEvidence)
    assert fixed.fitted.alpha == 0.5
    message = refusal(fit_method, quick(name), without)
    assert "no validation images of base classes" in message
    assert f"set methods.{name}." in message


@pytest.mark.parametrize("name", METHODS)
def test_nothing_can_start_from_more_than_texts(name: str, task: Task) -> None:
    model = fit_method(quick(name), task)
    capt = method_class("capt")(quick("capt").settings)
    other = Task(**{**vars(task), "base_model": model.fitted})
    assert f"{name} tells images by more than class texts" in refusal(fit_method, capt, other)
