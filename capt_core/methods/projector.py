"""The projector of a distilled student (PromptKD; Spotlighter has one for tokens)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from capt_core.learning.randomness import draw_seed


class Projector(nn.Module):
    """The student's embedding in the teacher's dimension.

    A 1x1 convolution, BatchNorm, ReLU and another one, over embeddings as maps of one pixel.
    BatchNorm takes the batch's statistics in training mode, the running ones in evaluation mode.

    Args:
        width: a, of the student's embedding.
        teacher_width: b, of the teacher's.
    """

    def __init__(self, width: int, teacher_width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, teacher_width, 1)
        self.bn = nn.BatchNorm2d(teacher_width)
        self.conv2 = nn.Conv2d(teacher_width, teacher_width, 1)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, a] to [B, b], neither normalised."""
        projected: torch.Tensor = self.conv2(
            functional.relu(self.bn(self.conv1(embedding[:, :, None, None])))
        )
        return projected.flatten(1)


def projector_start(width: int, teacher_width: int, seed: int) -> Projector:
    """The projector before the first step: drawn as torch draws its layers."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draw_seed("projector", seed))
        return Projector(width, teacher_width)
