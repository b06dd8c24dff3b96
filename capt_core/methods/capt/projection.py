"""From the joint space of images and texts back to the class token that the experts add to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

CONDITION = 10.0
"""Directions that the tower's output map shrinks more than this, beside the one it stretches most,
have no inverse: what is sent back along them would be noise of the class token."""


@dataclass(frozen=True)
class OutputInverse:
    """A pseudo-inverse.

    Attributes:
        matrix: from the joint space to the class token, [d, D].
        condition: ratio of the largest to the least singular value that was inverted.
        rank: how many were.
    """

    matrix: torch.Tensor
    condition: float
    rank: int


def output_map(tower: Any) -> torch.Tensor | None:
    """The linear part of what an open_clip vision tower makes of its class token, [D, d].

    The scale of the last LayerNorm and the projection; None for a tower that pools by attention.
    """
    if tower.attn_pool is not None:
        return None
    scale: torch.Tensor = tower.ln_post.weight.detach().float()
    if tower.proj is None:
        return torch.diag(scale)
    mapped: torch.Tensor = scale[:, None] * tower.proj.detach().float()
    return mapped


def pseudo_inverse(mapped: torch.Tensor, condition: float = CONDITION) -> OutputInverse:
    """Moore-Penrose inverse of a map [D, d] over its well-conditioned directions alone.

    Args:
        mapped: acts on rows from the right.
        condition: singular values below the largest over this are taken for zero.
    """
    left, values, right = torch.linalg.svd(mapped.double(), full_matrices=False)
    kept = values >= values[0] / condition
    values = values[kept]
    matrix = (right[kept].T / values) @ left[:, kept].T
    return OutputInverse(matrix.float(), float(values[0] / values[-1]), int(kept.sum()))


def text_projection(
    text_width: int, width: int, inverse: OutputInverse | None, generator: torch.Generator
) -> torch.Tensor:
    """The linear layer of eq. 12 before training, [d_text, D].

    Args:
        text_width: d_text.
        width: D.
        inverse: of the tower's output map, where texts are in the space that it leads to; None
            where they are not, which takes an orthogonal matrix.
        generator: of the orthogonal matrix.
    """
    if inverse is not None:
        return inverse.matrix
    weight = torch.empty(text_width, width)
    nn.init.orthogonal_(weight, generator=generator)
    return weight
