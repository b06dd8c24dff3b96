"""Eq. 1: class scores from image and text features."""

from __future__ import annotations

import torch


def class_logits(
    image_features: torch.Tensor, text_features: torch.Tensor, logit_scale: float
) -> torch.Tensor:
    """Scaled cosines; eq. 1 is their softmax over the classes.

    Args:
        image_features: [N, d], unit length.
        text_features: [C, d], unit length, one per class.
        logit_scale: the inverse temperature.

    Returns:
        Logits [N, C].
    """
    return logit_scale * image_features @ text_features.T
