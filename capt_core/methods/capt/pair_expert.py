"""The confused-pair expert of MGDE: it moves images along what tells two likely classes apart.

A closed form of what is mined, computed once from the few-shot images: its keys look for the
difference of a confused pair where images show it, its values are where texts put it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from capt_core.errors import CaptError
from capt_core.methods.capt.projection import OutputInverse

RIDGE = 0.1
"""Added to the texts' second moment, in shares of its mean diagonal."""

NO_SPREAD = 1e-12
"""Variance of unit-length features below which images are equal but for rounding."""

SMALL = 1e-12


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
    features: torch.Tensor,
    labels: torch.Tensor,
    pairs: Sequence[tuple[int, int]],
    shrinkage: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fisher's linear discriminant of every pair, in standard deviations within a class.

    k = S^-1 (m_a - m_b) / s, where s is such that k^T S k = 1, and the offset k (m_a + m_b) / 2, so
    that k z - offset is 0 half-way. S is the covariance within classes, shrunk towards a multiple
    of the identity of the same trace.

    Args:
        features: of training images, [n, d].
        labels: their classes, [n], from 0; every class of a pair has images.
        pairs: classes a and b.
        shrinkage: share of the multiple of the identity, above 0.

    Returns:
        Keys [P, d] and offsets [P], in float64.

    Raises:
        CaptError: images of a class do not differ: there is one of each, or they are equal.
    """
    features = features.double()
    count = int(labels.max()) + 1
    shown = functional.one_hot(labels, count).to(features)
    sizes = shown.sum(dim=0)
    means = shown.T @ features / sizes.clamp(min=1)[:, None]
    within = features - means[labels]
    freedom = len(features) - int((sizes > 0).sum())
    covariance = within.T @ within / max(1, freedom)
    spread = covariance.diagonal().mean()
    if freedom == 0 or spread < NO_SPREAD:
        raise CaptError(
            "methods.capt.experts: confused_pair has to see how images of one class differ, and "
            "these do not; give fewshot.shots=2 or more, or leave it out of granularities"
        )
    identity = torch.eye(len(covariance)).to(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * spread * identity
    one, other = (means[[pair[side] for pair in pairs]] for side in (0, 1))
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

    def expert(
        self, features: torch.Tensor, labels: torch.Tensor, inverse: OutputInverse
    ) -> ConfusedPairExpert:
        """The expert for few-shot images: features [n, d], unit length, and labels [n]."""
        keys, offsets = fisher_keys(features, labels, self.pairs, self.shrinkage)
        rows = torch.tensor(self.pairs, device=self.texts.device)
        differences = self.texts[rows[:, 0]] - self.texts[rows[:, 1]]
        values = quiet_values(differences, self.others) @ inverse.matrix.to(differences).double()
        found = ConfusedPairExpert(len(rows), len(self.texts), keys.shape[1], values.shape[1])
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
        text_width: d.
        width: D of the tower.
    """

    def __init__(self, pairs: int, classes: int, text_width: int, width: int) -> None:
        super().__init__()
        self.pairs: torch.Tensor
        self.texts: torch.Tensor
        self.keys: torch.Tensor
        self.offsets: torch.Tensor
        self.values: torch.Tensor
        self.strength: torch.Tensor
        self.register_buffer("pairs", torch.zeros(pairs, 2, dtype=torch.long))
        self.register_buffer("texts", torch.zeros(classes, text_width))
        self.register_buffer("keys", torch.zeros(pairs, text_width))
        self.register_buffer("offsets", torch.zeros(pairs))
        self.register_buffer("values", torch.zeros(pairs, width))
        self.register_buffer("strength", torch.zeros(()))

    def forward(self, class_token: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """What is added to the class token, [L, D].

        The values move a feature of unit length. The tower makes it from a class token that its
        last LayerNorm divides by its standard deviation, hence the two factors.

        Args:
            class_token: that comes out of the last block, [L, D].
            features: that the tower makes of it, not normalised, [L, d].
        """
        lengths = features.norm(dim=-1, keepdim=True)
        unit = features / lengths.clamp(min=1e-12)
        weights = pair_weights(unit, self.texts, self.pairs[:, 0], self.pairs[:, 1])
        along = unit @ self.keys.T - self.offsets
        centred = class_token - class_token.mean(dim=-1, keepdim=True)
        deviation = centred.square().mean(dim=-1, keepdim=True).sqrt()
        moved: torch.Tensor = (
            self.strength * deviation * lengths * ((weights * along) @ self.values)
        )
        return moved
