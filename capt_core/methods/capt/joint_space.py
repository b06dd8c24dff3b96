"""What few-shot images say of the space in which images are compared with class texts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from capt_core.methods.capt.pair_expert import ConfusedPairExpert


class JointSpace(nn.Module):
    """The confused-pair expert, and behind it the whitening of images and texts alike.

    Nothing in it is trained; without either it leaves everything as it is.

    Args:
        pair_expert: moves images.
        whitening: [d, d].
    """

    def __init__(
        self, pair_expert: ConfusedPairExpert | None = None, whitening: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.pair_expert = pair_expert
        self.whitening: torch.Tensor | None
        self.register_buffer("whitening", whitening)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Image features, unit length, [L, d], to those that are compared with `texts`."""
        if self.pair_expert is not None:
            features = functional.normalize(features + self.pair_expert(features), dim=-1)
        return self.texts(features)

    def texts(self, texts: torch.Tensor) -> torch.Tensor:
        """Text features, unit length, [C, d], to those that images are compared with."""
        if self.whitening is None:
            return texts
        return functional.normalize(texts @ self.whitening.to(texts), dim=-1)


def restored_space(tensors: Mapping[str, torch.Tensor]) -> JointSpace:
    """A joint space of the shapes of saved tensors, to be loaded with them."""
    expert = None
    if "pair_expert.keys" in tensors:
        pairs, width = tensors["pair_expert.keys"].shape
        expert = ConfusedPairExpert(pairs, len(tensors["pair_expert.texts"]), width)
    return JointSpace(expert, tensors.get("whitening"))
