"""What a frozen CLIP knows of the classes, and its task-aware centres."""

from __future__ import annotations

from typing import Any

import torch

from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.zero_shot_reference import frozen_text_features

MOST_ROUNDS = 1000
"""Rounds of K-means after which the centres are taken as they are."""

SHIFT = 1e-4
"""K-means has settled when the square of the sum of all centres' shifts is less."""


def text_knowledge(clip: Any, tokens: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """What the frozen text tower knows of each class (W_gpt), unit length, [C, d].

    The mean of the features of a class's descriptions, which are not normalised before it.

    Args:
        clip: open_clip model.
        tokens: ids of all descriptions, [n, L].
        owners: position of each one's class, [n]; every class has one at least.
    """
    features = frozen_text_features(clip, tokens)
    rows = [features[owners == owner].mean(dim=0) for owner in range(int(owners.max()) + 1)]
    return unit(torch.stack(rows))


def task_centres(points: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """K-means by cosine: each point to its most similar centre, each centre to its points' mean.

    It ends when the centres have settled (see `SHIFT`), or after `MOST_ROUNDS`. A centre that no
    point is nearest to stays where it is.

    Args:
        points: [C, d], of any length.
        start: the centres before the first round, [K, d].

    Returns:
        The centres, means as they are, [K, d], and the centre of each point that they are means
        of, [C].
    """
    centres = start
    nearest = torch.zeros(len(points), dtype=torch.long, device=points.device)
    for _ in range(MOST_ROUNDS):
        nearest = (unit(points) @ unit(centres).T).argmax(dim=1)
        rows = [points[nearest == centre] for centre in range(len(centres))]
        means = [own.mean(dim=0) if len(own) else centres[k] for k, own in enumerate(rows)]
        moved = torch.stack(means)
        shift = (moved - centres).norm(dim=1).sum()
        centres = moved
        if shift**2 < SHIFT:
            break
    return centres, nearest
