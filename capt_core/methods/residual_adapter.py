"""A plain residual on the pooled feature with retention: the floor for methods that learn more.

Two linear layers move the frozen feature; they learn by cross-entropy and are held to the
zero-shot predictions by distillation. There are no pairs, no adapters and no experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.learning.optimisation import Optimisation
from capt_core.methods.descriptions import described_vectors
from capt_core.methods.method import Fitted, Method, Need, named_vectors
from capt_core.methods.retained_training import Retained, RetainedSettings, minimise_retained
from capt_core.methods.task import Task
from capt_core.settings_file import packaged


class Residual(nn.Module):
    """f + W2 GELU(W1 f), normalised; W2 starts at zero, so step 0 is the frozen feature.

    Args:
        width: d, of the features.
        hidden: units between the two layers.
        seed: of the first layer's initial values.
    """

    def __init__(self, width: int, hidden: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inner = nn.Linear(width, hidden)
            self.outer = nn.Linear(hidden, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    @torch.no_grad()
    def interpolate(self, share: float) -> None:
        """Scale what is added to the feature: 1 leaves it, 0 would give the frozen feature."""
        self.outer.weight.mul_(share)
        self.outer.bias.mul_(share)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Unit-length features [N, d] to unit-length features [N, d]."""
        moved = features + self.outer(functional.gelu(self.inner(features)))
        return functional.normalize(moved, dim=-1)


class ResidualAdapterSettings(Optimisation, RetainedSettings, path="methods.residual_adapter"):
    """The section ``methods.residual_adapter``."""

    hidden: int = packaged(ge=1, le=65_536)


class AdaptedByResidual(Fitted):
    """CLIP whose pooled image feature goes through a `Residual`."""

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        residual: Residual,
        class_vectors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(method, backbone, class_vectors)
        self.residual = residual

    def adapt(self, features: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = self.residual(features)
        return moved


class ResidualAdapter(Retained):
    """The floor: a `Residual` trained by `minimise_retained` on frozen features.

    It has CAPT's class texts and retention and nothing of its mining, adapters or experts.
    """

    name = "residual_adapter"
    label = "Residual adapter with retention"
    needs = frozenset({Need.FEATURES, Need.DESCRIPTIONS})
    Settings = ResidualAdapterSettings

    def fit(self, task: Task) -> AdaptedByResidual:
        settings, backbone = self.settings, task.backbone
        plain = Fitted(self, backbone)
        vectors = described_vectors(task, plain, settings.difference_weight, settings.describe)
        residual = Residual(task.few_shot().features.shape[1], settings.hidden, task.seed)
        fitted = AdaptedByResidual(self, backbone, residual, vectors).to(backbone.device)
        trained = minimise_retained(self, task, fitted)
        trained.residual.interpolate(settings.interpolation)
        return trained

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> AdaptedByResidual:
        hidden, width = tensors["residual.inner.weight"].shape
        vectors = named_vectors(tensors, facts)
        fitted = AdaptedByResidual(self, backbone, Residual(width, hidden), vectors)
        fitted.load_state_dict(dict(tensors))
        return fitted
