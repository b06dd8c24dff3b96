"""Training on images: every epoch has views of its own, fixed by the seed; CAPT goes on from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from capt_core.methods.fitting import fit_method
from capt_core.methods.image_training import train_on_images
from capt_core.methods.maple import Maple
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
