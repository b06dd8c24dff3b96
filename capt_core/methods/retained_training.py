"""CAPT's class texts, retention and interpolation for methods that learn in other ways.

So that a method can be compared with CAPT by what it learns, not by what it is given.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch.nn import functional

from capt_core.learning.loop import Batch, Record
from capt_core.methods.classes import Classes
from capt_core.methods.descriptions import Describe, names_seen, retained_texts, retention_seen
from capt_core.methods.feature_training import minimise, trained_images
from capt_core.methods.method import Fitted, Method
from capt_core.methods.retention import RetentionNames, distillation_loss
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import Section, packaged

_Fitted = TypeVar("_Fitted", bound=Fitted)


class DescribedSettings(Section):
    """Settings of CAPT's class texts, and of the share of what was learnt that is kept."""

    difference_weight: float = packaged(ge=0, le=1e6)
    describe: Describe = packaged()
    interpolation: float = packaged(gt=0, le=1)


class RetainedSettings(DescribedSettings):
    """The same with those of CAPT's retention."""

    retention_weight: float = packaged(ge=0, le=1e6)
    retention_names: RetentionNames = packaged()


class Described(Method):
    """A method with `DescribedSettings`."""

    @property
    def described_by_name(self) -> float:
        weight: float = self.settings.difference_weight
        return weight if self.settings.describe == "all" else 0.0

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        return super().sees(task, fitted) + names_seen(task, fitted)


class Retained(Described):
    """A method with `RetainedSettings`."""

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        settings = self.settings
        retention = retention_seen(settings.retention_weight, settings.retention_names)
        return super().sees(task, fitted) + retention


def minimise_retained(method: Method, task: Task, fitted: _Fitted) -> _Fitted:
    """Learn from stored features by L_ori (eq. 2) + `retention_weight` x `distillation_loss`.

    Args:
        method: with `RetainedSettings`, and an `Optimisation` for its schedule.
        task: with features.
        fitted: on its backbone's device; all its parameters are trained.

    Returns:
        `fitted` on the CPU, with its training log.
    """
    settings, backbone, images = method.settings, task.backbone, trained_images(task)
    classes = Classes.of(task.dataset)
    plain = Fitted(method, backbone).class_texts(classes)
    retained = retained_texts(task, plain, settings.retention_names).to(backbone.device)
    texts = fitted.with_vectors(classes, plain)[task.trained_classes].to(backbone.device)
    scale = backbone.logit_scale

    def loss_of(batch: Batch) -> tuple[torch.Tensor, Record]:
        frozen = images.features[batch.samples]
        moved = fitted.adapt(frozen)
        logits = class_logits(moved, texts, scale)
        original = functional.cross_entropy(logits, images.labels[batch.samples])
        kept = distillation_loss(moved, frozen, retained, scale)
        parts = {"original_loss": original.item(), "retention_loss": kept.item()}
        return original + settings.retention_weight * kept, parts

    parameters, count = list(fitted.parameters()), len(images.labels)
    given = {"texts": texts, "retained": retained}
    return minimise(method, task, fitted, parameters, count, loss_of, given)
