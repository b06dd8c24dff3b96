"""Semantic experts of MGDE, initialised from prompt clusters (eq. 12)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

TEMPERATURE_START = 0.07
"""Of the softmax over centres before training: that of the contrastive losses CLIP comes from."""


def project_centres(centres: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    """Eq. 12: f_e = w^T K-means(t_prompt), one row per centre.

    Args:
        centres: [M, d_text].
        projection: w, [d_text, D].

    Returns:
        [M, D].
    """
    return centres @ projection


def lookup_weights(
    features: torch.Tensor, keys: torch.Tensor, inverse_temperature: torch.Tensor | float
) -> torch.Tensor:
    """Which centres an image is like: softmax(cos(K, f) / temperature).

    Cosines have one scale whatever the lengths of features and keys are; products over sqrt(D), as
    in attention, leave the softmax over unit-length keys even.

    Args:
        features: f, [L, D].
        keys: K, [M, D].
        inverse_temperature: one number.

    Returns:
        [L, M].
    """
    cosines = functional.normalize(features, dim=-1) @ functional.normalize(keys, dim=-1).T
    weights: torch.Tensor = (inverse_temperature * cosines).softmax(dim=-1)
    return weights


class SemanticExpert(nn.Module):
    """A key-value memory V^T softmax(cos(K, f) / temperature) whose K and V start as eq. 12.

    Both add an offset that starts at zero. The centres stay as they are; the projection w, its
    bias, the offsets and the temperature are trained.

    Args:
        centres: K-means centres [M, d_text], unit length.
        projection: w before training, [d_text, D].
    """

    def __init__(self, centres: torch.Tensor, projection: torch.Tensor) -> None:
        super().__init__()
        self.centres: torch.Tensor
        self.register_buffer("centres", centres.clone())
        count, width = len(centres), projection.shape[1]
        self.projection = nn.Parameter(projection.clone())
        self.bias = nn.Parameter(torch.zeros(width))
        self.key_offsets = nn.Parameter(torch.zeros(count, width))
        self.value_offsets = nn.Parameter(torch.zeros(count, width))
        self.log_inverse_temperature = nn.Parameter(torch.tensor(-math.log(TEMPERATURE_START)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [L, D] to [L, D]."""
        found: torch.Tensor = self.weights(features) @ (self._projected() + self.value_offsets)
        return found

    def weights(self, features: torch.Tensor) -> torch.Tensor:
        """`lookup_weights` of features [L, D], [L, M]."""
        keys = self._projected() + self.key_offsets
        return lookup_weights(features, keys, self.log_inverse_temperature.exp())

    def _projected(self) -> torch.Tensor:
        return project_centres(self.centres, self.projection) + self.bias
