"""Weighting and decoupling: the tuned prompt beside the backbone's (DPC, sections 3.2 and 3.4)."""

from __future__ import annotations

from typing import Literal

import torch

Variant = Literal["decoupled", "released"]
"""``decoupled`` is what the paper describes; ``released`` is what its code computes, in which the
backbone's prompt shares the memory of the trained one and moves with it."""


def parallel_prompt(
    mixed: torch.Tensor, backbone: torch.Tensor, weight: float, variant: Variant
) -> torch.Tensor:
    """The prompt of the trained classes, P' = (q - (1 - w) P) / w, so that w P' + (1 - w) P is q.

    A gradient by P' reaches q divided by w.

    Args:
        mixed: q, what is trained; equal to P at the start.
        backbone: P, of the same shape.
        weight: w, above 0.
        variant: in `released`, P is q itself without a gradient, so that P' equals q.
    """
    fixed = backbone if variant == "decoupled" else mixed.detach()
    return (mixed - (1 - weight) * fixed) / weight


def weighted_prompt(parallel: torch.Tensor, backbone: torch.Tensor, weight: float) -> torch.Tensor:
    """The prompt of other classes, w P' + (1 - w) P; at w = 0 it is the backbone's.

    Args:
        parallel: P'.
        backbone: P, of the same shape.
        weight: w.
    """
    return weight * parallel + (1 - weight) * backbone
