"""Semantic experts of MGDE, initialised from prompt clusters (eq. 12)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn


def project_centres(centres: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    """Eq. 12: f_e = w^T K-means(t_prompt), one row per centre.

    Args:
        centres: [M, d_text].
        projection: w, [d_text, D].

    Returns:
        [M, D].
    """
    return centres @ projection


def memory_lookup(features: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A feed-forward layer as key-value memory: V^T softmax(K f / sqrt(D)).

    Args:
        features: f, [L, D].
        keys: K, [M, D].
        values: V, [M, D].

    Returns:
        [L, D].
    """
    weights = (features @ keys.T / features.shape[-1] ** 0.5).softmax(dim=-1)
    found: torch.Tensor = weights @ values
    return found


def feed_forward_lookup(
    features: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """A feed-forward layer with CLIP's activation: V^T QuickGELU(K f).

    Args:
        features: f, [L, D].
        keys: first layer, [M, D].
        values: transposed second layer, [M, D].

    Returns:
        [L, D].
    """
    hidden = features @ keys.T
    found: torch.Tensor = (hidden * torch.sigmoid(1.702 * hidden)) @ values
    return found


class SemanticExpert(nn.Module):
    """Expert whose keys and values start as the projected centres of eq. 12.

    Both add an offset that starts at zero. The centres stay as they are; the projection w, its
    bias and the offsets are trained.

    Args:
        centres: K-means centres [M, d_text], unit length.
        width: D, of the tower.
        form: `memory` (softmax over the centres) or `feed_forward`.
        generator: of the orthogonal start of w where d_text differs from D.
    """

    def __init__(
        self,
        centres: torch.Tensor,
        width: int,
        form: Literal["memory", "feed_forward"],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.look_up = memory_lookup if form == "memory" else feed_forward_lookup
        self.centres: torch.Tensor
        self.register_buffer("centres", centres.clone())
        count, text_width = centres.shape
        weight = torch.eye(text_width)
        if text_width != width:
            weight = torch.empty(text_width, width)
            nn.init.orthogonal_(weight, generator=generator)
        self.projection = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(width))
        self.key_offsets = nn.Parameter(torch.zeros(count, width))
        self.value_offsets = nn.Parameter(torch.zeros(count, width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [L, D] to [L, D]."""
        projected = project_centres(self.centres, self.projection) + self.bias
        return self.look_up(features, projected + self.key_offsets, projected + self.value_offsets)
