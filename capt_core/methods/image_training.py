"""Training on augmented images through the common loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from capt_core.errors import CaptError
from capt_core.learning.loop import Batch, Record
from capt_core.methods.feature_training import class_positions, minimise
from capt_core.methods.method import Fitted, Method
from capt_core.methods.task import Task
from capt_core.methods.views import View, ViewSource

ImageLoss = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Record]]
"""The loss of images [B, 3, S, S] with positions among the trained classes [B], and its record."""

_Fitted = TypeVar("_Fitted", bound=Fitted)


def train_on_images(
    method: Method,
    task: Task,
    fitted: _Fitted,
    parameters: Sequence[nn.Parameter],
    loss_of: ImageLoss,
    state: nn.Module | None = None,
    after_epoch: Callable[[int], None] = lambda _: None,
    before_batch: Callable[[Batch], None] = lambda _: None,
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
        before_batch: called before the loss of a batch is, for losses that change with the epoch
            or draw something in every step.

    Returns:
        `fitted` on the CPU, with its training log.

    Raises:
        CaptError: an image cannot be read, half precision, or the loss is no number any more.
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
    assert task.image_root is not None
    images = task.dataset.images(rows["sample_id"], task.image_root)
    source = ViewSource(
        dict(zip(ids, images, strict=True)), "crop_flip", 0.0, task.seed, task.workers
    )

    def loss_of_batch(batch: Batch) -> tuple[torch.Tensor, Record]:
        views = [View(ids[index], batch.epoch) for index in batch.samples]
        images = source.pixels(views, backbone).to(backbone.device)
        before_batch(batch)
        return loss_of(images, labels[batch.samples].to(backbone.device))

    return minimise(
        method,
        task,
        fitted,
        parameters,
        len(ids),
        loss_of_batch,
        state=state,
        after_epoch=after_epoch,
    )
