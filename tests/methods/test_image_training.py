"""Training on images: every epoch has views of its own, fixed by the seed; CAPT goes on from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from capt_core.methods.capt.method import FittedCapt
from capt_core.methods.fitting import base_method, fit_method
from capt_core.methods.image_training import train_on_images
from capt_core.methods.maple import Maple
from capt_core.methods.method import Classes
from capt_core.methods.registry import method_class
from capt_core.methods.task import Task
from tests.methods.toy_task import quick
from tests.refusals import refusal


def views_seen(task: Task, **settings: Any) -> list[torch.Tensor]:
    """The batches of a training, in order."""
    method = quick("maple", **settings)
    assert isinstance(method, Maple)
    fitted, seen = method.start(task.backbone, 1), []

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> Any:
        seen.append(images)
        assert set(labels.tolist()) <= {0, 1}
        return fitted.prompts.sum(), {}

    train_on_images(method, task, fitted, [fitted.prompts], loss_of)
    return seen


def test_views_are_fixed_by_seed_image_and_epoch(task: Task) -> None:
    first, second = views_seen(task, batch_size=12)
    assert first.shape == (12, 3, 64, 64)
    again = views_seen(task, batch_size=12)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])

    def sums(batch: torch.Tensor) -> set[float]:
        return {image.sum().item() for image in batch.double()}

    assert not sums(first) & sums(second)
    assert not sums(first) & sums(views_seen(replace(task, seed=2), batch_size=12)[0])
    # Smaller batches hold the same views.
    small = torch.cat(views_seen(task, batch_size=3, epochs=1))
    assert sums(small) == sums(first)


def test_half_precision_is_refused(task: Task) -> None:
    backbone = replace(task.backbone, autocast=torch.float16)
    assert "maple is not trained in fp16" in refusal(
        fit_method, quick("maple"), replace(task, backbone=backbone)
    )


@pytest.mark.parametrize(
    "name", ["coop", "maple", "promptsrc", "promptkd", "tac", "twosfs", "clip_lora"]
)
def test_capt_starts_from_it_to_the_bit(name: str, task: Task) -> None:
    assert base_method(name, "here") is method_class(name)
    base = fit_method(quick(name), task).fitted
    capt = quick(
        "capt",
        train={"epochs": 1, "batch_size": 4},
        losses={"retention_names": "training"},
        class_texts={"difference_weight": 0.0},
    )
    found = fit_method(capt, replace(task, base_model=base)).fitted
    assert isinstance(found, FittedCapt)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    classes = Classes.of(task.dataset)
    with torch.no_grad():
        assert not torch.allclose(found.encode(images), base.encode(images), atol=1e-7)
        found.model.interpolate(0.0)  # as it was before the first step
        assert torch.equal(found.encode(images), base.encode(images))
        assert torch.equal(found.class_texts(classes), base.class_texts(classes))
        assert torch.equal(found(images, classes), base(images, classes))
