"""Training on few-shot images, or their stored features, through the common loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from capt_core.artifacts.tensors import tensors_digest
from capt_core.learning.loop import Batch, Loop, Record
from capt_core.learning.optimisation import ParameterGroup
from capt_core.learning.processes import Processes
from capt_core.methods.method import Fitted, Method
from capt_core.methods.task import FewShotFeatures, Task

_Fitted = TypeVar("_Fitted", bound=Fitted)


def class_positions(labels: torch.Tensor, class_ids: Sequence[int]) -> torch.Tensor:
    """Positions among `class_ids` of class ids [N]."""
    position = {class_id: index for index, class_id in enumerate(class_ids)}
    return torch.tensor([position[label] for label in labels.tolist()], dtype=torch.long)


def trained_images(task: Task) -> FewShotFeatures:
    """The few-shot images on the backbone's device; labels are positions among trained classes."""
    images, device = task.few_shot(), task.backbone.device
    labels = class_positions(images.labels, task.trained_classes)
    return FewShotFeatures(images.features.to(device), labels.to(device))


def minimise(
    method: Method,
    task: Task,
    fitted: _Fitted,
    parameters: Sequence[nn.Parameter],
    count: int,
    loss_of: Callable[[Batch], tuple[torch.Tensor, Record]],
    compared: Mapping[str, torch.Tensor] | None = None,
    state: nn.Module | None = None,
    after_epoch: Callable[[int], None] = lambda _: None,
    stages: Sequence[Sequence[float]] | None = None,
) -> _Fitted:
    """Minimise a loss over the few-shot images, with the method's settings as the schedule.

    Args:
        method: its settings are an `Optimisation`, or, where `stages` is given, a `Descent`.
        task: seed, checkpoints and reporter.
        fitted: what is trained.
        parameters: of `fitted`, those that are trained.
        count: number of samples.
        loss_of: see `Loop`.
        compared: texts that the loss depends on beside the task, by any name; a checkpoint made
            with others is not taken up.
        state: what is kept of an interrupted training, where `fitted` is not all of it.
        after_epoch: see `Loop`.
        stages: see `Loop`.

    Returns:
        `fitted` on the CPU, with its training log.
    """
    checkpoint = task.checkpoint(method, tensors_digest(compared or {}))
    loop = Loop(
        fitted if state is None else state,
        [ParameterGroup(parameters)],
        count,
        loss_of,
        method.settings,
        f"methods.{method.name}",
        task.seed,
        checkpoint,
        warn=task.reporter.warn,
        processes=Processes(task.backbone.device),
        after_epoch=after_epoch,
        stages=stages,
    )
    with task.reporter.progress("steps", loop.step_count) as loop.advance:
        fitted.training_run = loop.fit()
    return fitted.cpu()
