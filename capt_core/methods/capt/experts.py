"""MGDE, the Multi-Granularity Discrepancy Expert (eq. 11, 12)."""

from __future__ import annotations

import copy

import torch
from torch import nn

EXPERTS = ("sample", "commonality", "difference")
ROUTER_STD = 0.02


def route(features: torch.Tensor, router: torch.Tensor, active: int) -> torch.Tensor:
    """The gate of eq. 11: Softmax(TopK(f W_r)).

    Args:
        features: f, [L, D].
        router: W_r, [D, K].
        active: how many of the K logits TopK keeps; the others become -inf.

    Returns:
        Gate weights [L, K]; `active` of each row are positive and sum to 1.
    """
    logits = features @ router
    kept = logits.argsort(dim=1, descending=True, stable=True)[:, :active]
    masked = torch.full_like(logits, float("-inf")).scatter(1, kept, logits.gather(1, kept))
    return masked.softmax(dim=1)


def mixture(gates: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """The sum of eq. 11: sum_k gate_k Exp_k(f).

    Args:
        gates: [L, K].
        outputs: expert outputs [L, K, D].

    Returns:
        [L, D].
    """
    mixed: torch.Tensor = (gates[:, :, None] * outputs).sum(dim=1)
    return mixed


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


def replace_cues(features: torch.Tensor, kept: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Random vectors and masking of an activated expert: m f + (1 - m) r.

    Args:
        features: f, [L, D].
        kept: m, 1 where a coordinate is kept, [L, D].
        noise: standard normal numbers [L, D]; r is these times each row's standard deviation.
    """
    return kept * features + (1 - kept) * noise * features.std(dim=1, keepdim=True)


class SemanticExpert(nn.Module):
    """Expert initialised from prompt clusters.

    Eq. 12, f_e = w^T K-means(t_prompt), gives keys and values; both add an offset that starts
    at zero. The centres stay as they are, the projection w and the offsets are trained.

    Args:
        centres: K-means centres [M, d_text], unit length.
        width: D, of the tower.
        generator: of the orthogonal start of w where d_text differs from D.
    """

    def __init__(self, centres: torch.Tensor, width: int, generator: torch.Generator) -> None:
        super().__init__()
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
        projected = project_centres(self.centres, self.projection) + self.bias
        return memory_lookup(features, projected + self.key_offsets, projected + self.value_offsets)


def project_centres(centres: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    """Eq. 12: f_e = w^T K-means(t_prompt), one row per centre.

    Args:
        centres: [M, d_text].
        projection: w, [d_text, D].

    Returns:
        [M, D].
    """
    return centres @ projection


class MultiGranularityDiscrepancyExpert(nn.Module):
    """Three experts behind a router, added to the class token through a gate that starts at 0.

    Args:
        feed_forward: the frozen feed-forward part of the tower's last block; the sample expert
            is a trainable copy of it.
        commonality: K-means centres of the commonality prompts, [M, d_text].
        difference: K-means centres of the difference prompts, [M, d_text].
        width: D.
        active: k of TopK.
        mask_rate: share of an expert's input coordinates replaced by noise in training.
        generator: of all random starts.
    """

    def __init__(
        self,
        feed_forward: nn.Module,
        commonality: torch.Tensor,
        difference: torch.Tensor,
        width: int,
        active: int,
        mask_rate: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.active = active
        self.mask_rate = mask_rate
        self.sample = copy.deepcopy(feed_forward).requires_grad_(True)
        self.commonality = SemanticExpert(commonality, width, generator)
        self.difference = SemanticExpert(difference, width, generator)
        self.router = nn.Parameter(
            torch.randn(width, len(EXPERTS), generator=generator) * ROUTER_STD
        )
        self.residual_gate = nn.Parameter(torch.zeros(()))

    def forward(
        self, features: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix the experts.

        Args:
            features: f, [L, D].
            generator: of masks and noise; None (as in evaluation) masks nothing.

        Returns:
            What is added to the class token, [L, D], and the gate weights [L, K].
        """
        gates = route(features, self.router, self.active)
        outputs = []
        for expert in (self.sample, self.commonality, self.difference):
            cues = features
            if generator is not None and self.mask_rate > 0:
                draws = torch.rand(features.shape, generator=generator).to(features.device)
                noise = torch.randn(features.shape, generator=generator).to(features.device)
                cues = replace_cues(features, (draws >= self.mask_rate).float(), noise)
            outputs.append(expert(cues))
        return self.residual_gate * mixture(gates, torch.stack(outputs, dim=1)), gates
