"""A fitted method as the frozen teacher of a student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from capt_core.artifacts.tensors import tensors_digest
from capt_core.errors import CaptError
from capt_core.methods.classes import Classes
from capt_core.methods.method import Fitted
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits


@dataclass(frozen=True)
class FrozenTeacher:
    """A fitted method as a teacher.

    Attributes:
        fitted: in evaluation mode, on its backbone's device.
        texts: of the classes that are distilled, [C, b], unit length, on that device.
    """

    fitted: Fitted
    texts: torch.Tensor

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Image tensors [B, 3, S, S] to unit-length features [B, b]."""
        with self.fitted.backbone.precision():
            encoded = unit(self.fitted.encode(images))
        return self.fitted.adapt(encoded)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Image tensors [B, 3, S, S] to logits [B, C], at the teacher's own logit scale."""
        features = self.features(images)
        return class_logits(features, self.texts.to(features), self.fitted.backbone.logit_scale)


def teacher_of(task: Task, class_ids: Sequence[int]) -> FrozenTeacher:
    """The task's teacher for some classes.

    Raises:
        CaptError: it compares images with more than class texts.
    """
    fitted = task.teacher
    assert fitted is not None
    if not fitted.texts_alone:
        raise CaptError(
            f"teacher: {fitted.method.name} tells images by more than class texts, which a student "
            "cannot be compared with; choose another, such as promptsrc"
        )
    device = fitted.backbone.device
    fitted = fitted.to(device).eval()
    texts = fitted.class_texts(Classes.of(task.dataset).only(class_ids))
    return FrozenTeacher(fitted, texts.to(device))


def named(teacher: Fitted) -> str:
    """A teacher's method and backbone in words, and a digest of what it learned."""
    digest = tensors_digest(teacher.state_dict())[:8]
    return f"{teacher.method.name} on {teacher.backbone.identity}, weights {digest}"
