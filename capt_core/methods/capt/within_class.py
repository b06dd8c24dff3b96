"""How images of one class differ, and a space in which they differ alike in every direction."""

from __future__ import annotations

import torch

from capt_core.methods.gda import class_means

NO_SPREAD = 1e-12
"""Variance of unit-length features below which images are equal but for rounding."""


def within_class_covariance(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor | None:
    """Covariance of features about the means of their classes, pooled over classes, [d, d].

    Args:
        features: [n, d].
        labels: their classes, [n], from 0, all there.

    Returns:
        None where images of one class do not differ: there is one of each, or they are equal.
    """
    freedom = len(features) - len(set(labels.tolist()))
    within = features - class_means(features, labels)[labels]
    covariance = within.T @ within / max(1, freedom)
    return covariance if freedom > 0 and covariance.diagonal().mean() >= NO_SPREAD else None


def shrunk_covariance(
    features: torch.Tensor, labels: torch.Tensor, shrinkage: float
) -> torch.Tensor:
    """(1 - a) S + a tr(S) / d I, S the `within_class_covariance`, in fp64, [d, d].

    Args:
        features: of images that differ within a class, [n, d].
        labels: their classes, [n], from 0.
        shrinkage: a, above 0.
    """
    covariance = within_class_covariance(features.double(), labels)
    assert covariance is not None
    identity = torch.eye(len(covariance)).to(covariance)
    return (1 - shrinkage) * covariance + shrinkage * covariance.diagonal().mean() * identity


def whitening(covariance: torch.Tensor) -> torch.Tensor:
    """S^-1/2 times the root of the mean variance: within-class covariance normalisation.

    Cosines of features that it is applied to count directions the less, the more images of one
    class differ along them. Hatch, Kajarekar and Stolcke, "Within-class covariance normalization
    for SVM-based speaker recognition", Interspeech 2006.

    Args:
        covariance: S, positive definite, [d, d].
    """
    variances, axes = torch.linalg.eigh(covariance)
    found: torch.Tensor = (axes * (variances.mean() / variances).sqrt()) @ axes.T
    return found
