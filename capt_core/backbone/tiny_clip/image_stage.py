"""First pretraining stage: the image tower learns what rendered photographs show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.tiny_clip.corpus import TextureSet
from capt_core.backbone.tiny_clip.model import build_model, normalise
from capt_core.backbone.tiny_clip.optimisation import (
    Meter,
    adamw,
    batches,
    rate_share,
    save_tensors,
)
from capt_core.data.proctex import CLASS_NAMES, COLOURS
from capt_core.data.proctex.images import ORIENTATIONS, SIZE_LIMITS

_COLOUR_NAMES: Final = tuple(COLOURS)


@dataclass(frozen=True)
class ImageStage:
    """Settings of the image tower's training."""

    steps: int = 3000
    whole_steps: int = 400  # the last steps see every patch, as at inference
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warm_up: int = 150
    patch_dropout: float = 0.5
    checkpoint_every: int = 200


class VisibleFacts(nn.Module):
    """Linear heads that read an image's facts off its unit feature, with their joint loss."""

    SIZES: Final = {
        "texture": (len(CLASS_NAMES), 1.0),
        "foreground": (len(COLOURS), 0.3),
        "background": (len(COLOURS), 0.3),
        "orientation": (len(ORIENTATIONS), 0.2),
        "size": (3, 0.2),
    }
    """Classes of each head and the weight of its cross-entropy."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, count) for name, (count, _) in self.SIZES.items()}
        )

    def forward(
        self, features: torch.Tensor, targets: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Joint loss, and the share of textures recognised, of features (n, width)."""
        unit = self.scale.exp() * functional.normalize(features, dim=-1)
        loss = unit.new_zeros(())
        for name, (_, weight) in self.SIZES.items():
            loss = loss + weight * functional.cross_entropy(self.heads[name](unit), targets[name])
        recognised = self.heads["texture"](unit).argmax(1) == targets["texture"].argmax(1)
        return loss, recognised.float().mean()


def train_image_tower(
    textures: TextureSet, settings: ImageStage, seed: int, checkpoint: Path
) -> list[dict[str, float]]:
    """Train the image tower to tell what the photographs show.

    Args:
        textures: the pretraining images.
        settings: length and rates of the training.
        seed: seed of initial weights, order and augmentation.
        checkpoint: file the image tower is written to from time to time, and at the end.

    Returns:
        The log.
    """
    torch.manual_seed(seed)
    # The text tower is built with it and thrown away; one token keeps it small.
    tower = build_model(patch_dropout=settings.patch_dropout, vocabulary_size=1).visual
    heads = VisibleFacts(tower.output_dim)
    parameters = [*tower.named_parameters(), *heads.named_parameters()]
    optimizer, rate = adamw(parameters, settings.learning_rate, settings.weight_decay)
    images = torch.from_numpy(textures.images).permute(0, 3, 1, 2)
    targets = _fact_targets(textures)
    rows = batches(len(images), settings.batch, np.random.default_rng(seed))
    meter = Meter("image tower", settings.batch)
    tower.train()
    for step in range(settings.steps):
        if step == settings.steps - settings.whole_steps:
            tower.patch_dropout = nn.Identity()
        chosen = next(rows)
        pixels = normalise(images[chosen])
        if step % 2 == 1:
            pixels = pixels.flip(3)
        rate(rate_share(step, settings.steps, settings.warm_up))
        features = tower(pixels)
        loss, recognised = heads(features, {name: t[chosen] for name, t in targets.items()})
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([p for _, p in parameters], 1.0)
        optimizer.step()
        meter.add(loss.item(), recognised.item())
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            meter.report(step + 1)
            save_tensors(tower.state_dict(), checkpoint)
    meter.check()
    return meter.rows


def _fact_targets(textures: TextureSet) -> dict[str, torch.Tensor]:
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
