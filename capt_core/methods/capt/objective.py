"""The loss of a training step, put together from its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from capt_core.methods.capt.experts import gate_entropy
from capt_core.methods.capt.losses import confusion_loss, original_loss
from capt_core.methods.capt.settings import EXPERTS, Losses
from capt_core.methods.retention import distillation_loss


@dataclass(frozen=True)
class Objective:
    """L_confuse and what stands beside it.

    Attributes:
        settings: the `losses` section.
        text_features: of the visible (base) classes in class order, unit length, [B, d]; their
            class ids run from 0.
        retention_texts: of the names over which the base model's predictions are kept, unit
            length, [V, d]; None without retention.
        logit_scale: inverse temperature.
        margin: of L_ori between the visible classes, [B, B]; None for none.
    """

    settings: Losses
    text_features: torch.Tensor
    retention_texts: torch.Tensor | None
    logit_scale: float
    margin: torch.Tensor | None = None

    @property
    def needs_base(self) -> bool:
        """Whether a loss compares with the base model's features."""
        return self.settings.retention_weight > 0

    def __call__(
        self,
        images: torch.Tensor,
        base: torch.Tensor | None,
        labels: torch.Tensor,
        anchors: torch.Tensor,
        mixtures: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, float | None]]:
        """Weighted sum, and each part before weighting (None where its inputs are not given).

        Args:
            images: features of all rows, [L, d], unit length.
            base: features of the frozen base model for the same views, [L, d], unit length, or
                None if no weighted loss needs them.
            labels: class of each row, [L].
            anchors: rows that are anchors, [L] bool. Representatives are hard by choice and few:
                only anchors stand for the classes evenly, so L_ori and retention look at them.
            mixtures: rows that are mixtures of two images of a class, [L] bool, which take the
                place of the anchors in L_ori and no other part; None where there are none.
        """
        weights, scale = self.settings, self.logit_scale
        original = anchors if mixtures is None else mixtures
        single = slice(None) if mixtures is None else ~mixtures
        parts: dict[str, torch.Tensor | None] = {
            "confusion_loss": confusion_loss(
                images[single],
                self.text_features[labels[single]],
                labels[single],
                scale,
                weights.factor,
            ),
            "original_loss": original_loss(
                images[original], self.text_features, labels[original], scale, self.margin
            ),
            "retention_loss": None,
        }
        if base is not None and self.retention_texts is not None:
            parts["retention_loss"] = distillation_loss(
                images[anchors], base[anchors], self.retention_texts, scale
            )
        total = images.new_zeros(())
        for name, weight in (
            ("confusion_loss", weights.confusion_weight),
            ("original_loss", weights.original_weight),
            ("retention_loss", weights.retention_weight),
        ):
            part = parts[name]
            if weight and part is not None:
                total = total + weight * part
        return total, {n: None if part is None else part.item() for n, part in parts.items()}


def gate_statistics(gates: torch.Tensor, names: Sequence[str]) -> dict[str, float]:
    """How the gate was used.

    Args:
        gates: [L, K].
        names: of the K experts.

    Returns:
        For every expert its mean weight and the share of rows it was active for (0 if the model
        has none of that name), and the mean entropy in nats.
    """
    statistics = {f"{name}_expert_weight": 0.0 for name in EXPERTS}
    statistics |= {f"{name}_expert_share": 0.0 for name in EXPERTS}
    for index, name in enumerate(names):
        statistics[f"{name}_expert_weight"] = gates[:, index].mean().item()
        statistics[f"{name}_expert_share"] = (gates[:, index] > 0).float().mean().item()
    return statistics | {"gate_entropy": gate_entropy(gates).item() if len(names) else 0.0}
