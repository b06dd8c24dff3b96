"""Training on augmented images through the common loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from capt_core.backbone.loading import Backbone
from capt_core.data.dataset import ImageSource
from capt_core.errors import CaptError
from capt_core.learning.loop import Batch, Record
from capt_core.methods.feature_training import class_positions, minimise
from capt_core.methods.method import Fitted, Method
from capt_core.methods.task import Task
from capt_core.methods.views import View, ViewSource

EPOCHS_AT_MOST = 100_000
"""Numbers of an image's first views; the settings allow no more epochs."""

ImageLoss = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Record]]
"""The loss of images [B, 3, S, S] with positions among the trained classes [B], and its record."""

_Fitted = TypeVar("_Fitted", bound=Fitted)


@dataclass(frozen=True)
class FewShotViews:
    """The few-shot images of a task, cropped and flipped anew in every epoch.

    Attributes:
        ids: sample ids, in the order of the draw.
        labels: positions among the trained classes, [N].
        files: the images.
        source: of their views.
        backbone: for which views are made.
    """

    ids: Sequence[int]
    labels: torch.Tensor
    files: Sequence[ImageSource]
    source: ViewSource
    backbone: Backbone

    @staticmethod
    def of(method: Method, task: Task, smallest: float = 0.08) -> FewShotViews:
        """Those of a task.

        Args:
            method: that is trained on them.
            task: images, seed and workers.
            smallest: share of an image's area that a crop has at least.

        Raises:
            CaptError: half precision.
        """
        if task.backbone.autocast == torch.float16:
            raise CaptError(
                f"runtime.precision: {method.name} is not trained in fp16, whose gradients vanish; "
                "use bf16 or fp32"
            )
        rows = task.few_shot_rows()
        ids = rows["sample_id"].to_list()
        labels = class_positions(torch.tensor(rows["class_id"].to_list()), task.trained_classes)
        assert task.image_root is not None
        files = task.dataset.images(rows["sample_id"], task.image_root)
        source = ViewSource(
            dict(zip(ids, files, strict=True)), "crop_flip", 0.0, task.seed, task.workers, smallest
        )
        return FewShotViews(ids, labels, files, source, task.backbone)

    def pixels(self, batch: Batch, number: int = 0) -> torch.Tensor:
        """One of the views [B, 3, S, S] of a batch's images, on the backbone's device.

        The first depends on the seed, the image and the epoch; others on their number too.

        Raises:
            CaptError: an image cannot be read.
        """
        view = batch.epoch + number * EPOCHS_AT_MOST
        views = [View(self.ids[index], view) for index in batch.samples]
        return self.source.pixels(views, self.backbone).to(self.backbone.device)


def train_on_images(
    method: Method,
    task: Task,
    fitted: _Fitted,
    parameters: Sequence[nn.Parameter],
    loss_of: ImageLoss,
    state: nn.Module | None = None,
    after_epoch: Callable[[int], None] = lambda _: None,
) -> _Fitted:
    """Minimise a loss over the few-shot images, cropped and flipped anew in every epoch.

    An image's crop and flip depend on the seed, the image and the epoch only. On several processes
    each forwards the whole batch.

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
    backbone = task.backbone
    images = FewShotViews.of(method, task)

    def loss_of_batch(batch: Batch) -> tuple[torch.Tensor, Record]:
        return loss_of(images.pixels(batch), images.labels[batch.samples].to(backbone.device))

    return minimise(
        method,
        task,
        fitted,
        parameters,
        len(images.files),
        loss_of_batch,
        state=state,
        after_epoch=after_epoch,
    )
