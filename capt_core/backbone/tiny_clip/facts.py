"""What a photograph shows, as targets, and the heads that read it off a feature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.tiny_clip.corpus import TextureSet
from capt_core.data.proctex import CLASS_NAMES, COLOURS
from capt_core.data.proctex.images import ORIENTATIONS, SIZE_LIMITS

VISIBLE: Final = {
    "texture": (len(CLASS_NAMES), 1.0),
    "foreground": (len(COLOURS), 0.3),
    "background": (len(COLOURS), 0.3),
    "orientation": (len(ORIENTATIONS), 0.2),
    "size": (3, 0.2),
}
"""What can be seen: number of answers, and the weight of the cross-entropy."""

_COLOUR_NAMES: Final = tuple(COLOURS)


class VisibleFacts(nn.Module):
    """Linear heads that read an image's facts off its unit feature, with their joint loss."""

    def __init__(self, width: int, sizes: Mapping[str, tuple[int, float]] = VISIBLE) -> None:
        """Make heads.

        Args:
            width: of the features.
            sizes: answers and weight of each head, by name; the first one's targets are shares
                of its answers, the others' labels.
        """
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, count) for name, (count, _) in sizes.items()}
        )
        self.weights = {name: weight for name, (_, weight) in sizes.items()}

    def forward(
        self, features: torch.Tensor, targets: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Joint loss, and the first head's share of hits, of features (n, width)."""
        unit = self.scale.exp() * functional.normalize(features, dim=-1)
        loss = unit.new_zeros(())
        for name, weight in self.weights.items():
            loss = loss + weight * functional.cross_entropy(self.heads[name](unit), targets[name])
        first = next(iter(self.weights))
        recognised = self.heads[first](unit).argmax(1) == targets[first].argmax(1)
        return loss, recognised.float().mean()


def fact_targets(textures: TextureSet) -> dict[str, torch.Tensor]:
    """Targets of the heads: shares of the textures (n, 30); labels (n,) for the others."""
    facts = textures.facts
    shares = torch.zeros(len(facts), len(CLASS_NAMES))
    for row, fact in zip(shares, facts, strict=True):
        row[fact.class_id] = 1 - fact.neighbour_weight
        if fact.neighbour_id is not None:
            row[fact.neighbour_id] = fact.neighbour_weight
    scales = np.array([fact.scale for fact in facts])
    return {
        "texture": shares,
        "foreground": torch.tensor([_COLOUR_NAMES.index(f.foreground) for f in facts]),
        "background": torch.tensor([_COLOUR_NAMES.index(f.background) for f in facts]),
        "orientation": torch.tensor([ORIENTATIONS.index(f.orientation) for f in facts]),
        "size": torch.from_numpy(np.digitize(scales, SIZE_LIMITS)),
    }
