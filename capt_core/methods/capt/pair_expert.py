"""The confused-pair expert of MGDE: it moves images along what tells two likely classes apart.

A closed form of what is mined, computed once from the few-shot images: its keys look for the
difference of a confused pair where images show it, its values are where texts put it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from capt_core.methods.capt.within_class import WithinClass

RIDGE = 0.1
"""Added to the texts' second moment, in shares of its mean diagonal."""

SMALL = 1e-12

AT_ONCE = 1 << 24
"""Numbers of images times pairs that are looked at together, of 4 bytes each: a data set of many
classes has tens of thousands of confused pairs."""


def pair_weights(
    features: torch.Tensor, texts: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    """How far an image lies between the classes of each pair: 4 p_a p_b.

    Args:
        features: unit length, [L, d].
        texts: of the C trained classes times the inverse temperature, [C, d].
        first: row of each pair's one class, [P].
        second: row of its other class, [P].

    Returns:
        [L, P], 1 where two classes have a half each, near 0 where one class has all.
    """
    confidences = (features @ texts.T).softmax(dim=-1)
    return 4 * confidences[:, first] * confidences[:, second]


def fisher_keys(
    within: WithinClass, pairs: Sequence[tuple[int, int]], shrinkage: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fisher's linear discriminant of every pair, in standard deviations within a class.

    k = S^-1 (m_a - m_b) / s, where s is such that k^T S k = 1, and the offset k (m_a + m_b) / 2, so
    that k z - offset is 0 half-way. S is the covariance within classes, shrunk towards a multiple
    of the identity of the same trace.

    Args:
        within: means and covariance of training images.
        pairs: classes a and b.
        shrinkage: share of the multiple of the identity, above 0.

    Returns:
        Keys [P, d] and offsets [P], in float64.
    """
    shrunk = within.shrunk(shrinkage)
    one, other = (within.means[[pair[side] for pair in pairs]] for side in (0, 1))
    keys = torch.linalg.solve(shrunk, (one - other).T).T
    spreads = (keys * (keys @ shrunk)).sum(dim=1, keepdim=True).sqrt()
    keys = keys / spreads.clamp(min=SMALL)  # classes of equal means have no direction
    return keys, (keys * (one + other)).sum(dim=1) / 2


def quiet_values(differences: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Moves that change a pair's difference by one, and cosines to other texts as little as can be.

    v = G^-1 u / (u^T G^-1 u) minimises v^T G v subject to u^T v = 1, where u is a difference and G
    the second moment of the other texts, with `RIDGE` on its diagonal. What it leaves alone is what
    novel classes are told by.

    Args:
        differences: of the two class texts of every pair, [P, d].
        others: texts that are to be left alone, unit length, [V, d].

    Returns:
        [P, d], in float64.
    """
    differences, others = differences.double(), others.double()
    moment = others.T @ others / max(1, len(others))
    if not moment.any():  # nothing to leave alone
        moment = torch.eye(differences.shape[1]).to(differences)
    moment += RIDGE * moment.diagonal().mean() * torch.eye(len(moment)).to(moment)
    values = torch.linalg.solve(moment, differences.T).T
    moved = (values * differences).sum(dim=1, keepdim=True)
    quiet: torch.Tensor = values / moved.clamp(min=SMALL)  # equal texts cannot be told apart: 0
    return quiet


@dataclass(frozen=True)
class ConfusedPairs:
    """What the expert is computed from.

    Attributes:
        pairs: rows of `texts` of the two classes of each pair.
        texts: of the trained classes, unit length, [C, d].
        others: texts that are to be left alone, unit length, [V, d].
        logit_scale: inverse temperature.
        shrinkage: see `fisher_keys`.
        strength: how far the difference of a pair's logits is moved for each standard deviation
            that an image lies off half-way.
    """

    pairs: Sequence[tuple[int, int]]
    texts: torch.Tensor
    others: torch.Tensor
    logit_scale: float
    shrinkage: float
    strength: float

    def expert(self, within: WithinClass) -> ConfusedPairExpert:
        """The expert for few-shot images of these means and this covariance."""
        keys, offsets = fisher_keys(within, self.pairs, self.shrinkage)
        rows = torch.tensor(self.pairs, device=self.texts.device)
        differences = self.texts[rows[:, 0]] - self.texts[rows[:, 1]]
        values = quiet_values(differences, self.others)
        found = ConfusedPairExpert(len(rows), len(self.texts), keys.shape[1])
        found.load_state_dict(
            {
                "pairs": rows,
                "texts": self.logit_scale * self.texts,
                "keys": keys,
                "offsets": offsets,
                "values": values,
                "strength": torch.tensor(self.strength / self.logit_scale),
            }
        )
        return found


class ConfusedPairExpert(nn.Module):
    """Moves a unit-length feature z by strength sum_p w_p(z) (k_p z - o_p) v_p.

    Nothing is trained; all tensors are buffers. The keys fit the images that they are computed
    from, so a training that ran through the expert would have it seem better than it is: it is
    added to a trained model.

    Args:
        pairs: P.
        classes: C.
        width: d.
    """

    def __init__(self, pairs: int, classes: int, width: int) -> None:
        super().__init__()
        self.pairs: torch.Tensor
        self.texts: torch.Tensor
        self.keys: torch.Tensor
        self.offsets: torch.Tensor
        self.values: torch.Tensor
        self.strength: torch.Tensor
        self.register_buffer("pairs", torch.zeros(pairs, 2, dtype=torch.long))
        self.register_buffer("texts", torch.zeros(classes, width))
        self.register_buffer("keys", torch.zeros(pairs, width))
        self.register_buffer("offsets", torch.zeros(pairs))
        self.register_buffer("values", torch.zeros(pairs, width))
        self.register_buffer("strength", torch.zeros(()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """What is added to unit-length features, [L, d]."""
        rows = max(1, AT_ONCE // max(1, len(self.pairs)))
        # An exported graph has no number of rows to choose by.
        if torch.compiler.is_exporting() or len(features) <= rows:
            return self._moves(features)
        starts = range(0, len(features), rows)
        return torch.cat([self._moves(features[start : start + rows]) for start in starts])

    def _moves(self, features: torch.Tensor) -> torch.Tensor:
        weights = pair_weights(features, self.texts, self.pairs[:, 0], self.pairs[:, 1])
        along = features @ self.keys.T - self.offsets
        moved: torch.Tensor = self.strength * ((weights * along) @ self.values)
        return moved
