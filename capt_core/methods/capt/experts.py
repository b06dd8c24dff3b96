"""MGDE, the Multi-Granularity Discrepancy Expert (eq. 11, 12)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from capt_core.methods.capt.projection import OutputInverse, text_projection
from capt_core.methods.capt.semantic_expert import SemanticExpert
from capt_core.methods.capt.settings import EXPERTS, Experts

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
    # The rank of k counts the experts before it: higher ones, and equal ones of a lower index.
    # Unlike a stable sort, every runtime that models are exported to can compare.
    one, other = logits[:, :, None], logits[:, None, :]
    count = logits.shape[1]
    earlier = torch.ones(count, count, device=logits.device).tril(diagonal=-1).bool()
    rank = ((other > one) | ((other == one) & earlier)).sum(dim=2)
    return logits.masked_fill(rank >= active, float("-inf")).softmax(dim=1)


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


def replace_cues(features: torch.Tensor, kept: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Random vectors and masking of an activated expert: m f + (1 - m) r.

    Args:
        features: f, [L, D].
        kept: m, 1 where a coordinate is kept, [L, D].
        noise: standard normal numbers [L, D]; r is these times each row's standard deviation.
    """
    return kept * features + (1 - kept) * noise * features.std(dim=1, keepdim=True)


def gate_entropy(gates: torch.Tensor) -> torch.Tensor:
    """Mean entropy of the gates [L, K] in nats: 0 for one expert, log k for k even ones."""
    return -(gates * gates.clamp(min=1e-12).log()).sum(dim=1).mean()


@dataclass(frozen=True)
class Masks:
    """Random draws of one training step: `kept` and `noise`, both [K, L, D] (see replace_cues)."""

    kept: torch.Tensor
    noise: torch.Tensor

    @staticmethod
    def draw(experts: int, rows: int, width: int, rate: float, generator: torch.Generator) -> Masks:
        """Keep each coordinate with probability 1 - `rate`; drawn on the CPU."""
        shape = (experts, rows, width)
        kept = (torch.rand(shape, generator=generator) >= rate).float()
        return Masks(kept, torch.randn(shape, generator=generator))

    def rows(self, chosen: list[int], device: torch.device) -> Masks:
        """The draws of some of the rows, on a device."""
        return Masks(self.kept[:, chosen].to(device), self.noise[:, chosen].to(device))


class MultiGranularityDiscrepancyExpert(nn.Module):
    """Experts behind a router, added to the class token through a gate that starts at 0.

    Args:
        feed_forward: the frozen feed-forward part of the tower's last block; the sample expert
            is a trainable copy of it.
        centres: K-means centres of the commonality and of the difference prompts by name,
            each [M, d_text].
        width: D.
        settings: the `experts` section; experts it does not list are left out, and with
            `routing: mean` those listed weigh alike, without a router.
        generator: of all random starts.
        inverse: of the tower's output map, where the prompts' texts are in its joint space.
    """

    def __init__(
        self,
        feed_forward: nn.Module,
        centres: Mapping[str, torch.Tensor],
        width: int,
        settings: Experts,
        generator: torch.Generator,
        inverse: OutputInverse | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(name for name in EXPERTS if name in settings.granularities)
        self.active = min(settings.active, len(self.names))
        self.experts = nn.ModuleDict()
        for name in self.names:
            if name == "sample":
                self.experts[name] = copy.deepcopy(feed_forward).requires_grad_(True)
            else:
                own = centres[name]
                start = text_projection(own.shape[1], width, inverse, generator)
                self.experts[name] = SemanticExpert(own, start)
        self.router: nn.Parameter | None = None
        if settings.routing == "top_k" and self.names:
            start = torch.randn(width, len(self.names), generator=generator) * ROUTER_STD
            self.router = nn.Parameter(start)
        self.residual_gate = nn.Parameter(torch.zeros(()))

    def forward(
        self, features: torch.Tensor, masks: Masks | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix the experts.

        Args:
            features: f, [L, D].
            masks: draws of this step while training; None (as in evaluation) masks nothing.

        Returns:
            What is added to the class token, [L, D], and the gate weights [L, K].
        """
        if not self.names:
            return torch.zeros_like(features), features.new_zeros(features.shape[0], 0)
        if self.router is None:
            gates = features.new_full((features.shape[0], len(self.names)), 1 / len(self.names))
        else:
            gates = route(features, self.router, self.active)
        outputs = []
        for index, name in enumerate(self.names):
            cues = features
            if masks is not None:
                cues = replace_cues(features, masks.kept[index], masks.noise[index])
            outputs.append(self.experts[name](cues))
        return self.residual_gate * mixture(gates, torch.stack(outputs, dim=1)), gates
