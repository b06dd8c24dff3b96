"""Training on augmented images through the common loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import polars as pl
import torch
from torch import nn

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.learning.loop import Batch, Record
from capt_core.methods.feature_training import class_positions, minimise
from capt_core.methods.method import Fitted, Method
from capt_core.methods.task import Task
from capt_core.methods.views import Augmentation, View, ViewSource

ImageLoss = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Record]]
"""The loss of images [B, 3, S, S] with positions among the trained classes [B], and its record."""

UnlabelledLoss = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Record]]
"""The loss of images as the student takes them [B, 3, S, S] and as the teacher does, its record."""

_Fitted = TypeVar("_Fitted", bound=Fitted)


@dataclass(frozen=True)
class FewShotViews:
    """The few-shot images, cropped and flipped anew in every epoch.

    An image's crop and flip depend on the seed, the image and the epoch only.

    Attributes:
        ids: of the samples, [N].
        labels: positions of their classes among the trained ones, [N].
        source: of their pixels.
        backbone: on whose device they are put.
    """

    ids: Sequence[int]
    labels: torch.Tensor
    source: ViewSource
    backbone: Backbone

    @staticmethod
    def of(method: Method, task: Task) -> FewShotViews:
        """Those that a method is trained on.

        Raises:
            CaptError: half precision.
        """
        check_precision(method, task.backbone)
        rows = task.few_shot_rows()
        labels = class_positions(torch.tensor(rows["class_id"].to_list()), task.trained_classes)
        source = training_views(task, rows["sample_id"])
        return FewShotViews(rows["sample_id"].to_list(), labels, source, task.backbone)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [B, 3, S, S] of a batch and positions of their classes [B], on the device."""
        views = [View(self.ids[index], batch.epoch) for index in batch.samples]
        images = self.source.pixels(views, self.backbone)
        device = self.backbone.device
        return images.to(device), self.labels[batch.samples].to(device)


def train_on_images(
    method: Method,
    task: Task,
    fitted: _Fitted,
    parameters: Sequence[nn.Parameter],
    loss_of: ImageLoss,
    state: nn.Module | None = None,
    after_epoch: Callable[[int], None] = lambda _: None,
) -> _Fitted:
    """Minimise a loss over `FewShotViews`. On several processes each forwards the whole batch.

    Args:
        method: its settings are an `Optimisation`.
        task: images, seed, checkpoints and reporter.
        fitted: what is trained.
        parameters: of `fitted`, those that are trained.
        loss_of: see `ImageLoss`; tensors are on the backbone's device.
        state: see `minimise`.
        after_epoch: see `Loop`.

    Returns:
        `fitted` on the CPU, with its training log.

    Raises:
        CaptError: an image cannot be read, half precision, or the loss is no number any more.
    """
    views = FewShotViews.of(method, task)
    return minimise(
        method,
        task,
        fitted,
        parameters,
        len(views.ids),
        lambda batch: loss_of(*views(batch)),
        state=state,
        after_epoch=after_epoch,
    )


def train_on_unlabelled(
    method: Method,
    task: Task,
    fitted: _Fitted,
    parameters: Sequence[nn.Parameter],
    sample_ids: pl.Series,
    teacher: Backbone,
    loss_of: UnlabelledLoss,
) -> _Fitted:
    """Minimise a loss over images without their labels, cropped and flipped anew in every epoch.

    The student and the teacher are given the same crop and flip of an image, each at the size and
    with the normalisation that its own tower takes.

    Args:
        method: its settings are an `Optimisation`.
        task: seed, checkpoints and reporter.
        fitted: what is trained.
        parameters: of `fitted`, those that are trained.
        sample_ids: the images.
        teacher: backbone of the teacher.
        loss_of: see `UnlabelledLoss`; each tensor is on the device of its backbone.

    Returns:
        `fitted` on the CPU, with its training log.

    Raises:
        CaptError: an image cannot be read, half precision, or the loss is no number any more.
    """
    student, ids = task.backbone, sample_ids.to_list()
    check_precision(method, student)
    source = training_views(task, sample_ids)

    def loss_of_batch(batch: Batch) -> tuple[torch.Tensor, Record]:
        views = [View(ids[index], batch.epoch) for index in batch.samples]
        images = seen = source.pixels(views, student)
        if teacher.preprocess != student.preprocess:
            seen = source.pixels(views, teacher)
        return loss_of(images.to(student.device), seen.to(teacher.device))

    return minimise(method, task, fitted, parameters, len(ids), loss_of_batch)


def check_precision(method: Method, backbone: Backbone) -> None:
    """Refuse to train in half precision.

    Raises:
        CaptError: the backbone runs in fp16.
    """
    if backbone.autocast == torch.float16:
        raise CaptError(
            f"runtime.precision: {method.name} is not trained in fp16, whose gradients vanish; "
            "use bf16 or fp32"
        )


def training_views(
    task: Task, sample_ids: pl.Series, augmentation: Augmentation = "crop_flip"
) -> ViewSource:
    """Views of some images of a task: random crops and flips, or the test transform."""
    assert task.image_root is not None
    images = task.dataset.images(sample_ids, task.image_root)
    files = dict(zip(sample_ids.to_list(), images, strict=True))
    return ViewSource(files, augmentation, 0.0, task.seed, task.workers)
