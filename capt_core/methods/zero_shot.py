"""Eq. 1: class scores from image and text features."""

from __future__ import annotations

import torch


def class_logits(
    image_features: torch.Tensor, text_features: torch.Tensor, logit_scale: float
) -> torch.Tensor:
    """Scaled cosines, the logits of eq. 1.

    Args:
        image_features: [N, d], unit length.
        text_features: [C, d], unit length, one per class.
        logit_scale: the inverse temperature.

    Returns:
        Logits [N, C].
    """
    return logit_scale * image_features @ text_features.T


def class_confidences(
    image_features: torch.Tensor, text_features: torch.Tensor, logit_scale: float
) -> torch.Tensor:
    """Eq. 1: softmax over classes of the scaled cosines.

    Args:
        image_features: [N, d], unit length.
        text_features: [C, d], unit length, one per class.
        logit_scale: the inverse temperature.

    Returns:
        Confidences [N, C]; every row sums to 1.
    """
    return class_logits(image_features, text_features, logit_scale).softmax(dim=-1)
