"""Training on augmented images through the common loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import polars as pl
import torch
from torch import nn

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.learning.loop import Batch, Record
from capt_core.methods.feature_training import class_positions, minimise
from capt_core.methods.method import Fitted, Method
from capt_core.methods.task import Task
from capt_core.methods.views import View, ViewSource

ImageLoss = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Record]]
"""The loss of images [B, 3, S, S] with positions among the trained classes [B], and its record."""

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
        backbone = task.backbone
        if backbone.autocast == torch.float16:
            raise CaptError(
                f"runtime.precision: {method.name} is not trained in fp16, whose gradients vanish; "
                "use bf16 or fp32"
            )
        rows = task.few_shot_rows()
        ids = rows["sample_id"].to_list()
        labels = class_positions(torch.tensor(rows["class_id"].to_list()), task.trained_classes)
        return FewShotViews(ids, labels, view_source(task, ids, "crop_flip"), backbone)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [B, 3, S, S] of a batch and positions of their classes [B], on the device."""
        views = [View(self.ids[index], batch.epoch) for index in batch.samples]
        images = self.source.pixels(views, self.backbone)
        device = self.backbone.device
        return images.to(device), self.labels[batch.samples].to(device)


def view_source(
    task: Task, ids: Sequence[int], augmentation: Literal["crop_flip", "none"]
) -> ViewSource:
    """Pixels of some samples of a task, by sample id."""
    assert task.image_root is not None
    images = task.dataset.images(pl.Series(ids, dtype=pl.Int64), task.image_root)
    files = dict(zip(ids, images, strict=True))
    return ViewSource(files, augmentation, 0.0, task.seed, task.workers)


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
