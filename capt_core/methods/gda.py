"""Gaussian discriminant analysis of frozen features beside the zero-shot logits.

Wang et al., "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation", ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.methods.descriptions import described_vectors
from capt_core.methods.image_evidence import (
    LabelledImages,
    WithEvidence,
    chosen,
    open_settings,
)
from capt_core.methods.method import Fitted, Method, Need, named_vectors
from capt_core.methods.task import Task
from capt_core.settings_file import Section, packaged

ALPHAS = tuple(10.0**power for power in range(-4, 3))
"""Tried when the settings name none, as published."""


def class_means(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean feature of each class, [K, d], of features [n, d] with labels 0 to K - 1, all there."""
    count = int(labels.max()) + 1
    return torch.stack([features[labels == label].mean(dim=0) for label in range(count)])


def shrunk_precision(deviations: torch.Tensor) -> torch.Tensor:
    """d ((n - 1) S + tr(S) I)^-1, S the covariance: Kubokawa and Srivastava's estimator.

    Args:
        deviations: of features from the mean of their class, not all zero, [n, d].

    Returns:
        The inverse covariance that the classes share, [d, d].
    """
    scatter = deviations.T @ deviations  # (n - 1) S
    count, width = deviations.shape
    shrinkage = scatter.trace() / (count - 1) * torch.eye(width).to(scatter)
    precision: torch.Tensor = width * torch.linalg.inv(scatter + shrinkage)
    return precision


def discriminant(means: torch.Tensor, precision: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """w_k = P m_k and b_k = log(1 / K) - m_k P m_k / 2, of K equally likely Gaussians.

    Args:
        means: m, [K, d].
        precision: P, [d, d].

    Returns:
        Weights [K, d] and biases [K]: w f + b is the log-likelihood of f, up to a constant.
    """
    weight = means @ precision
    prior = -torch.tensor(float(len(means))).log()
    return weight, prior - (weight * means).sum(dim=1) / 2


def fitted_discriminant(
    features: torch.Tensor, labels: torch.Tensor, where: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `discriminant` of labelled features, in fp32.

    Args:
        features: unit length, [n, d].
        labels: 0 to K - 1, all there, [n].
        where: data set and method, for the message.

    Raises:
        CaptError: no class has two different features.
    """
    values = features.double()
    means = class_means(values, labels)
    deviations = values - means[labels]
    if not deviations.any():
        raise CaptError(
            f"{where} needs classes with two or more different images to see how images of a "
            "class differ; raise fewshot.shots"
        )
    weight, bias = discriminant(means, shrunk_precision(deviations))
    return weight.float(), bias.float()


class GdaSettings(Section, path="methods.gda"):
    """The section ``methods.gda``."""

    alpha: float | None = packaged(ge=0, le=1e6)


class GdaPromptsSettings(Section, path="methods.gda_prompts"):
    """The section ``methods.gda_prompts``."""

    alpha: float | None = packaged(ge=0, le=1e6)
    difference_weight: float = packaged(ge=0, le=1e6)


class FittedDiscriminant(WithEvidence):
    """CLIP with the linear function of a `discriminant` beside it.

    Args:
        method, backbone, names, alpha: see `WithEvidence`.
        weight: [K, d].
        bias: [K].
        class_vectors: see `Fitted`.
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        names: tuple[str, ...],
        alpha: float,
        weight: torch.Tensor,
        bias: torch.Tensor,
        class_vectors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(method, backbone, names, alpha, class_vectors)
        self.weight: torch.Tensor
        self.bias: torch.Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def evidence(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.weight.T.to(features) + self.bias.to(features)


class Gda(Method):
    """Classes are Gaussians of one covariance, estimated from few-shot images without training.

    Where the settings name no weight, the one that makes the few-shot validation images of base
    classes most likely is taken. The features are those of the test view; the original's are of
    randomly cropped images. Its novel classes borrow the images of base classes that look like
    their names; here they are told by their texts alone.
    """

    name = "gda"
    label = "GDA"
    citation = "Wang et al., ICLR 2024"
    compares_texts = False
    Settings: ClassVar[type[Section]] = GdaSettings

    def vectors(self, task: Task) -> dict[str, torch.Tensor]:
        """Class texts of its own, by class name."""
        return {}

    def fit(self, task: Task) -> FittedDiscriminant:
        images = LabelledImages.of(task)
        where = f"{task.dataset.name}: {self.name}"
        weight, bias = fitted_discriminant(images.features, images.labels, where)
        alpha = self.settings.alpha
        fitted = FittedDiscriminant(
            self, task.backbone, images.names, alpha or 0.0, weight, bias, self.vectors(task)
        )
        if alpha is None:
            tried = [{"alpha": alpha} for alpha in ALPHAS]
            found = chosen(
                task,
                fitted,
                f"methods.{self.name}.alpha",
                tried,
                lambda _, given: fitted.evidence(given),
            )
            fitted.alpha = found["alpha"]
        return fitted

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> FittedDiscriminant:
        learnt = tensors["weight"], tensors["bias"], named_vectors(tensors, facts)
        return FittedDiscriminant(self, backbone, facts["names"], facts["alpha"], *learnt)

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        return super().sees(task, fitted) + open_settings(self.settings, "alpha")


class GdaPrompts(Gda):
    """`Gda` whose zero-shot logits are of class texts with difference prompts, as CAPT's are.

    It is what the prompts and the few-shot images are worth together without any training.
    """

    name = "gda_prompts"
    label = "GDA on difference prompts"
    needs = frozenset({Need.FEATURES, Need.DESCRIPTIONS})
    Settings = GdaPromptsSettings

    def vectors(self, task: Task) -> dict[str, torch.Tensor]:
        plain = Fitted(self, task.backbone)
        return described_vectors(task, plain, self.settings.difference_weight)
