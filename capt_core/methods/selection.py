"""Choosing a setting on the few-shot validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch.nn import functional

from capt_core.errors import CaptError
from capt_core.methods.task import FewShotFeatures, Task

_Candidate = TypeVar("_Candidate")


def validation_images(task: Task, group: str, setting: str) -> FewShotFeatures:
    """The few-shot validation images of one half of the classes.

    Args:
        task: with features.
        group: `base` or `novel`.
        setting: path of what is to be chosen with them, for the message.

    Raises:
        CaptError: there are none.
    """
    images = task.few_shot("val", group)
    if not len(images.labels):
        raise CaptError(
            f"{task.dataset.name}: no validation images of {group} classes to choose with; "
            f"set {setting}"
        )
    return images


def likeliest(
    candidates: Iterable[_Candidate],
    logits_of: Callable[[_Candidate], torch.Tensor],
    labels: torch.Tensor,
) -> _Candidate:
    """The candidate under which images are most likely of their classes, the first on ties.

    Accuracy, which the field's searches compare, ties too often on so few images.

    Args:
        candidates: one or more.
        logits_of: logits [N, C] of the images under a candidate.
        labels: positions of the images' classes, [N].
    """

    def loss(candidate: _Candidate) -> float:
        return functional.cross_entropy(logits_of(candidate).double(), labels).item()

    return min(candidates, key=loss)
