"""The residual: nothing at step 0, one value by hand, and what it learns."""

from __future__ import annotations

import math

import pytest
import torch

from capt_core.methods.classes import Classes
from capt_core.methods.residual_adapter import Residual, ResidualAdapter, ResidualAdapterSettings
from capt_core.methods.retention import distillation_loss
from capt_core.methods.task import Task
from tests.methods.toy_task import labels_of


def test_step_0_is_the_frozen_feature(task: Task) -> None:
    assert task.features is not None
    features = task.features()
    model = Residual(features.shape[1], 16, seed=3)
    torch.testing.assert_close(model(features), features)
    assert not model.outer.weight.any()
    assert model.inner.weight.any()


def test_the_residual_by_hand() -> None:
    model = Residual(2, 1).requires_grad_(False)
    model.inner.weight[:] = torch.tensor([[1.0, 0.0]])
    model.inner.bias[:] = 0
    model.outer.weight[:] = torch.tensor([[0.0], [2.0]])
    # f = (1, 0): W1 f = 1, GELU(1) = 0.8413, so f moves to (1, 1.6827), then to unit length.
    gelu = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    length = math.hypot(1, 2 * gelu)
    found = model(torch.tensor([[1.0, 0.0]]))
    assert found.tolist()[0] == pytest.approx([1 / length, 2 * gelu / length], abs=1e-6)


def kept_and_right(task: Task, weight: float) -> tuple[float, float]:
    """Distance from the zero-shot predictions over all classes, and accuracy on the base half."""
    settings = ResidualAdapterSettings(
        epochs=40,
        batch_size=4,
        hidden=16,
        learning_rate=0.02,
        difference_weight=0.0,
        retention_weight=weight,
        retention_names="all",
    )
    found = ResidualAdapter(settings).fit(task)
    run = found.training_run
    assert run is not None
    assert len(run.log) == 120
    classes, base = Classes.of(task.dataset), labels_of(task.dataset) < 2
    assert task.features is not None
    frozen = task.features()[base]
    moved = found.adapt(frozen)
    right = found.logits(moved, classes)[:, :2].argmax(dim=1) == labels_of(task.dataset)[base]
    texts = found.class_texts(classes)
    kept = distillation_loss(moved, frozen, texts, task.backbone.logit_scale)
    assert run.log["retention_loss"].is_finite().all()
    assert run.log["loss"].to_list() == pytest.approx(
        (run.log["original_loss"] + weight * run.log["retention_loss"]).to_list(), rel=1e-4
    )
    return kept.item(), right.float().mean().item()


def test_it_learns_and_retention_holds_it_back(task: Task) -> None:
    free, right = kept_and_right(task, 0.0)
    held, _ = kept_and_right(task, 100.0)
    assert right == 1.0
    assert held < 0.1 * free


def test_a_share_of_what_was_learnt_is_added() -> None:
    model = Residual(2, 1).requires_grad_(False)
    model.inner.weight[:] = torch.tensor([[1.0, 0.0]])
    model.inner.bias[:] = 0
    model.outer.weight[:] = torch.tensor([[0.0], [2.0]])
    model.outer.bias[:] = torch.tensor([0.0, 0.4])
    feature = torch.tensor([[1.0, 0.0]])
    moved = model(feature)
    added = moved[0, 1] / moved[0, 0]
    model.interpolate(0.5)
    half = model(feature)
    assert (half[0, 1] / half[0, 0]).item() == pytest.approx(added.item() / 2)
