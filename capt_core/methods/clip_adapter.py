"""CLIP-Adapter: a bottleneck on the pooled image feature (Gao et al., IJCV 2024; arXiv 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.learning.loop import Batch, Record
from capt_core.learning.optimisation import Optimisation
from capt_core.learning.randomness import draw_seed
from capt_core.methods.classes import Classes
from capt_core.methods.descriptions import described_vectors
from capt_core.methods.feature_training import minimise, trained_images
from capt_core.methods.method import Fitted, Method, Need, named_vectors
from capt_core.methods.retained_training import Retained, RetainedSettings, minimise_retained
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import Section, packaged


def adapted_feature(
    features: torch.Tensor, down: torch.Tensor, up: torch.Tensor, ratio: float
) -> torch.Tensor:
    """f* = ratio A(f) + (1 - ratio) f with A(f) = ReLU(ReLU(f W1) W2), unit length.

    A(c f) = c A(f) for c > 0, so that unit-length features give what the tower's own would.

    Args:
        features: f, [N, d].
        down: W1, [d, h].
        up: W2, [h, d].
        ratio: share of the adapted feature.
    """
    adapted = ((features @ down).relu() @ up).relu()
    return functional.normalize(ratio * adapted + (1 - ratio) * features, dim=-1)


class BottleneckSettings(Optimisation):
    """Settings of `adapted_feature` and its training."""

    reduction: int = packaged(ge=1, le=65_536)
    ratio: float = packaged(ge=0, le=1)


class ClipAdapterSettings(BottleneckSettings, path="methods.clip_adapter"):
    """The section ``methods.clip_adapter``."""


class ClipAdapterPromptsSettings(
    BottleneckSettings, RetainedSettings, path="methods.clip_adapter_prompts"
):
    """The section ``methods.clip_adapter_prompts``."""


class AdaptedByBottleneck(Fitted):
    """CLIP whose pooled image feature goes through `adapted_feature`.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        width: d of the features.
        seed: of the random start.
        class_vectors: see `Fitted`.
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        width: int,
        seed: int = 0,
        class_vectors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(method, backbone, class_vectors)
        self.ratio: float = method.settings.ratio
        hidden = max(1, width // method.settings.reduction)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw_seed("clip_adapter", seed))
            self.down = nn.Linear(width, hidden, bias=False)
            self.up = nn.Linear(hidden, width, bias=False)

    def adapt(self, features: torch.Tensor) -> torch.Tensor:
        return adapted_feature(features, self.down.weight.T, self.up.weight.T, self.ratio)


class ClipAdapter(Method):
    """Cross-entropy over the trained classes, on stored features of the test view.

    The original augments images anew at every step; everything else is as in its paper.
    """

    name = "clip_adapter"
    label = "CLIP-Adapter"
    citation = "Gao et al., IJCV 2024"
    Settings: ClassVar[type[Section]] = ClipAdapterSettings

    def fit(self, task: Task) -> AdaptedByBottleneck:
        backbone, device = task.backbone, task.backbone.device
        images = trained_images(task)
        width = images.features.shape[1]
        fitted = AdaptedByBottleneck(self, backbone, width, task.seed).to(device)
        texts = fitted.class_texts(Classes.of(task.dataset))[task.trained_classes].to(device)

        def loss_of(batch: Batch) -> tuple[torch.Tensor, Record]:
            moved = fitted.adapt(images.features[batch.samples])
            logits = class_logits(moved, texts, backbone.logit_scale)
            return functional.cross_entropy(logits, images.labels[batch.samples]), {}

        parameters = list(fitted.parameters())
        return minimise(self, task, fitted, parameters, len(images.labels), loss_of)

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> AdaptedByBottleneck:
        width, vectors = tensors["down.weight"].shape[1], named_vectors(tensors, facts)
        fitted = AdaptedByBottleneck(self, backbone, width, class_vectors=vectors)
        fitted.load_state_dict(dict(tensors))
        return fitted


class ClipAdapterPrompts(Retained, ClipAdapter):
    """`ClipAdapter` with CAPT's class texts, retention and interpolation.

    The share of what was learnt that is kept is a share of the ratio: s (ratio A(f) +
    (1 - ratio) f) + (1 - s) f = s ratio A(f) + (1 - s ratio) f, from the frozen f.
    """

    name = "clip_adapter_prompts"
    label = "CLIP-Adapter on difference prompts, with retention"
    needs = frozenset({Need.FEATURES, Need.DESCRIPTIONS})
    Settings = ClipAdapterPromptsSettings

    def fit(self, task: Task) -> AdaptedByBottleneck:
        settings, backbone = self.settings, task.backbone
        plain = Fitted(self, backbone)
        vectors = described_vectors(task, plain, settings.difference_weight, settings.describe)
        width = task.few_shot().features.shape[1]
        fitted = AdaptedByBottleneck(self, backbone, width, task.seed, vectors)
        trained = minimise_retained(self, task, fitted.to(backbone.device))
        trained.ratio *= settings.interpolation
        return trained

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> AdaptedByBottleneck:
        fitted = super().restore(backbone, tensors, facts)
        fitted.ratio *= self.settings.interpolation
        return fitted
