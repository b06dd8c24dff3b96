"""How images of one class differ, and a space in which they differ alike in every direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from capt_core.methods.gda import class_means

NO_SPREAD = 1e-12
"""Variance of unit-length features below which images are equal but for rounding."""


@dataclass(frozen=True)
class WithinClass:
    """Classes of images, and how images of one class differ.

    Attributes:
        means: mean feature of each class, fp64, [K, d].
        covariance: of features about the mean of their class, pooled over classes, fp64, [d, d].
    """

    means: torch.Tensor
    covariance: torch.Tensor

    @staticmethod
    def of(features: torch.Tensor, labels: torch.Tensor) -> WithinClass | None:
        """That of features [n, d] with labels [n] from 0, all there.

        Returns:
            None where images of one class do not differ: there is one of each, or they are equal.
        """
        values = features.double()
        means = class_means(values, labels)
        freedom = len(values) - len(means)
        within = values - means[labels]
        covariance = within.T @ within / max(1, freedom)
        differ = freedom > 0 and covariance.diagonal().mean() >= NO_SPREAD
        return WithinClass(means, covariance) if differ else None

    def shrunk(self, shrinkage: float) -> torch.Tensor:
        """(1 - a) S + a tr(S) / d I, S the covariance and a the shrinkage, above 0, [d, d]."""
        identity = torch.eye(len(self.covariance)).to(self.covariance)
        variance = self.covariance.diagonal().mean()
        return (1 - shrinkage) * self.covariance + shrinkage * variance * identity


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
