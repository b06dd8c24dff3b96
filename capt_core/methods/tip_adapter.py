"""Tip-Adapter: few-shot images as keys of a cache beside the zero-shot logits.

Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", ECCV 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.learning.loop import Batch, Record
from capt_core.learning.optimisation import Optimisation
from capt_core.methods.descriptions import described_vectors
from capt_core.methods.feature_training import minimise
from capt_core.methods.image_evidence import (
    LabelledImages,
    WithEvidence,
    chosen,
    open_settings,
    shared_classes,
    trained_classes,
)
from capt_core.methods.method import Fitted, Method, Need, named_vectors
from capt_core.methods.retained_training import Described, DescribedSettings
from capt_core.methods.task import Task
from capt_core.settings_file import Section, packaged


def cache_logits(
    features: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, beta: float
) -> torch.Tensor:
    """exp(-beta (1 - f F^T)) L.

    Args:
        features: f, unit length, [N, d].
        keys: F, features of the few-shot images, [n, d].
        values: L, their labels one-hot, [n, K].
        beta: sharpness.

    Returns:
        [N, K].
    """
    return (-beta * (1 - features @ keys.T)).exp() @ values


def searched(largest: float, count: int) -> list[float]:
    """What the published search tries: `count` values from 0.1 to below `largest`, evenly."""
    return [0.1 + step * (largest - 0.1) / count for step in range(count)]


ALPHAS = searched(3.0, 20)
BETAS = searched(7.0, 200)


class TipAdapterSettings(Section, path="methods.tip_adapter"):
    """The section ``methods.tip_adapter``."""

    alpha: float | None = packaged(ge=0, le=1e6)
    beta: float | None = packaged(ge=0, le=1e6)


class CacheTrainingSettings(Optimisation):
    """Settings of a cache and of the training of its keys."""

    alpha: float | None = packaged(ge=0, le=1e6)
    beta: float | None = packaged(ge=0, le=1e6)
    training_alpha: float = packaged(ge=0, le=1e6)
    training_beta: float = packaged(ge=0, le=1e6)


class TipAdapterFSettings(CacheTrainingSettings, path="methods.tip_adapter_f"):
    """The section ``methods.tip_adapter_f``."""


class TipAdapterFPromptsSettings(
    CacheTrainingSettings, DescribedSettings, path="methods.tip_adapter_f_prompts"
):
    """The section ``methods.tip_adapter_f_prompts``."""


class Cached(WithEvidence):
    """CLIP with a cache of labelled features beside it.

    Args:
        method, backbone, names, alpha: see `WithEvidence`.
        beta: sharpness.
        keys: [n, d].
        labels: of the keys, positions among the names, [n].
        class_vectors: see `Fitted`.
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        names: Sequence[str],
        alpha: float,
        beta: float,
        keys: torch.Tensor,
        labels: torch.Tensor,
        class_vectors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(method, backbone, names, alpha, class_vectors)
        self.beta = beta
        self.keys = nn.Parameter(keys.clone(), requires_grad=False)
        self.labels: torch.Tensor
        self.register_buffer("labels", labels)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "beta": self.beta}

    def evidence(self, features: torch.Tensor) -> torch.Tensor:
        values = functional.one_hot(self.labels, len(self.names)).to(features)
        return cache_logits(features, self.keys.to(features), values, self.beta)


class TipAdapter(Method):
    """Zero-shot logits + alpha x `cache_logits`, without training.

    Where the settings name no alpha or beta, the published ranges are searched for what makes the
    few-shot validation images of base classes most likely. Keys are features of the test view;
    the original's are means over ten randomly cropped ones.
    """

    name = "tip_adapter"
    label = "Tip-Adapter"
    citation = "Zhang et al., ECCV 2022"
    compares_texts = False
    Settings: ClassVar[type[Section]] = TipAdapterSettings

    def fit(self, task: Task) -> Cached:
        images, settings = LabelledImages.of(task), self.settings
        alpha, beta = settings.alpha or 0.0, settings.beta or 0.0
        fitted = Cached(
            self, task.backbone, images.names, alpha, beta, images.features, images.labels
        )
        return with_chosen(task, fitted)

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> Cached:
        scalars = facts["names"], facts["alpha"], facts["beta"]
        cache = tensors["keys"], tensors["labels"]
        return Cached(self, backbone, *scalars, *cache, named_vectors(tensors, facts))

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        return super().sees(task, fitted) + open_settings(self.settings, "alpha", "beta")


class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys are trained by cross-entropy before alpha and beta are chosen.

    The original trains on randomly cropped images and keeps the epoch that is best on test
    images; here it is the test view, and the last epoch.
    """

    name = "tip_adapter_f"
    label = "Tip-Adapter-F"
    Settings: ClassVar[type[Section]] = TipAdapterFSettings

    def vectors(self, task: Task) -> dict[str, torch.Tensor]:
        """Class texts of its own, by class name."""
        return {}

    def kept_keys(self, start: torch.Tensor, trained: torch.Tensor) -> torch.Tensor:
        """The keys [n, d] that a training from `start` to `trained` leaves."""
        return trained

    def fit(self, task: Task) -> Cached:
        settings, backbone = self.settings, task.backbone
        images, classes = LabelledImages.of(task), trained_classes(task)
        weights = settings.training_alpha, settings.training_beta
        vectors = self.vectors(task)
        cache = images.features, images.labels
        fitted = Cached(self, backbone, images.names, *weights, *cache, vectors)
        fitted.keys.requires_grad_()
        fitted.to(backbone.device)
        score = fitted.scorer(classes)
        _, columns = shared_classes(images.names, classes)
        features = images.features.to(backbone.device)
        labels = torch.tensor(columns)[images.labels].to(backbone.device)

        def loss_of(batch: Batch) -> tuple[torch.Tensor, Record]:
            logits = score(features[batch.samples])
            return functional.cross_entropy(logits, labels[batch.samples]), {}

        minimise(self, task, fitted, [fitted.keys], len(labels), loss_of, vectors)
        fitted.keys.requires_grad_(False)
        fitted.keys.copy_(self.kept_keys(images.features, fitted.keys))
        fitted.alpha, fitted.beta = settings.alpha or 0.0, settings.beta or 0.0
        return with_chosen(task, fitted)


class TipAdapterFPrompts(Described, TipAdapterF):
    """`TipAdapterF` on CAPT's class texts, with a share of how far its keys moved.

    Image features stay frozen, and so do the predictions over any words: CAPT's retention over
    them would be zero throughout, and is not there.
    """

    name = "tip_adapter_f_prompts"
    label = "Tip-Adapter-F on difference prompts"
    needs = frozenset({Need.FEATURES, Need.DESCRIPTIONS})
    Settings = TipAdapterFPromptsSettings

    def vectors(self, task: Task) -> dict[str, torch.Tensor]:
        plain, settings = Fitted(self, task.backbone), self.settings
        return described_vectors(task, plain, settings.difference_weight, settings.describe)

    def kept_keys(self, start: torch.Tensor, trained: torch.Tensor) -> torch.Tensor:
        return start.lerp(trained, self.settings.interpolation)


def with_chosen(task: Task, fitted: Cached) -> Cached:
    """`fitted` with the alpha and beta that its settings leave open chosen on validation images."""
    settings = fitted.method.settings
    left = [name for name in ("alpha", "beta") if getattr(settings, name) is None]
    if not left:
        return fitted
    alphas = ALPHAS if settings.alpha is None else [settings.alpha]
    betas = BETAS if settings.beta is None else [settings.beta]

    tried = ({"alpha": alpha, "beta": beta} for beta, alpha in product(betas, alphas))

    @lru_cache(maxsize=1)  # the alphas of one beta come one after the other
    def at_sharpness(beta: float, features: torch.Tensor) -> torch.Tensor:
        fitted.beta = beta
        return fitted.evidence(features)

    found = chosen(
        task,
        fitted,
        f"methods.{fitted.method.name}.{' and '.join(left)}",
        tried,
        lambda candidate, features: at_sharpness(candidate["beta"], features),
    )
    fitted.alpha, fitted.beta = found["alpha"], found["beta"]
    return fitted
