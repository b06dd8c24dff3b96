"""A plain residual on the pooled feature with retention: the floor for methods that learn more.

Two linear layers move the frozen feature; they learn by cross-entropy and are held to the
zero-shot predictions by distillation. There are no pairs, no adapters and no experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl
import torch
from torch import nn
from torch.nn import functional

from capt_core import params
from capt_core.methods.clip import class_logits
from capt_core.methods.fitting import FewShotFeatures, descend
from capt_core.methods.retention import distillation_loss


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

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Unit-length features [N, d] to unit-length features [N, d]."""
        moved = features + self.outer(functional.gelu(self.inner(features)))
        return functional.normalize(moved, dim=-1)


def fit_residual(
    images: FewShotFeatures,
    texts: torch.Tensor,
    retained: torch.Tensor,
    logit_scale: float,
    settings: params.Residual,
    seed: int,
    device: torch.device | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[dict[str, torch.Tensor], pl.DataFrame]:
    """Fit the residual: cross-entropy + `retention_weight` x `distillation_loss`.

    Args:
        images: of the training classes; labels index `texts`.
        texts: text features of the training classes, unit length, [B, d].
        retained: text features of the names that retention is over, unit length, [V, d].
        logit_scale: inverse temperature of eq. 1.
        settings: hidden units, weight, optimiser and schedule.
        seed: of the first layer and the order of batches.
        device: to train on; the CPU if None.
        advance: told 1 after each epoch.

    Returns:
        The tensors of `Residual` on the CPU, and the log of `descend`.
    """
    device = device or torch.device("cpu")
    model = Residual(images.features.shape[1], settings.hidden, seed).to(device)
    features, labels = images.features.to(device), images.labels.to(device)
    texts, retained = texts.to(device), retained.to(device)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        frozen = features[batch]
        moved = model(frozen)
        loss = functional.cross_entropy(class_logits(moved, texts, logit_scale), labels[batch])
        kept = distillation_loss(moved, frozen, retained, logit_scale)
        return loss + settings.retention_weight * kept

    log = descend(model.parameters(), loss_of, len(labels), settings, seed, advance)
    return {name: value.cpu() for name, value in model.state_dict().items()}, log


@torch.no_grad()
def residual_features(tensors: Mapping[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Unit-length features [N, d] of a fitted residual, from the frozen ones."""
    hidden, width = tensors["inner.weight"].shape
    model = Residual(width, hidden)
    model.load_state_dict(dict(tensors))
    moved: torch.Tensor = model(features)
    return moved
