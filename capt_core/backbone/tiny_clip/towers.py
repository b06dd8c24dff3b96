"""The two pretraining stages: the image tower with labels, then the text tower on captions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from capt_core.backbone.tiny_clip.corpus import TextureSet
from capt_core.backbone.tiny_clip.model import build_model, normalise
from capt_core.backbone.tiny_clip.optimisation import Checkpoint, Schedule, batches, minimise
from capt_core.backbone.tiny_clip.tokenizer import Tokenizer
from capt_core.backbone.tiny_clip.widening import widen
from capt_core.data.proctex import CLASS_NAMES, COLOURS
from capt_core.data.proctex.captions import CaptionStyle, caption
from capt_core.data.proctex.images import ORIENTATIONS, SIZE_LIMITS

if TYPE_CHECKING:
    from open_clip.model import CLIP

_COLOUR_NAMES: Final = tuple(COLOURS)


@dataclass(frozen=True)
class ImageStage(Schedule):
    """Settings of the image tower's training."""

    steps: int = 3000
    whole_steps: int = 400  # the last steps see every patch, as at inference
    patch_dropout: float = 0.5


@dataclass(frozen=True)
class TextStage(Schedule):
    """Settings of the text tower's training."""

    steps: int = 350
    weight_decay: float = 0.05
    warm_up: int = 50
    report_every: int = 50
    fine_name: float = 0.03
    full_stop: float = 0.0
    per_class: int = 1600  # images of each class that are captioned


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
    name: str,
    textures: TextureSet,
    settings: ImageStage,
    seed: int,
    *,
    trained: Mapping[str, torch.Tensor] | None = None,
    checkpoint: Path | None = None,
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Train the image tower to tell what the photographs show.

    Args:
        name: the model whose tower it is.
        textures: the pretraining images.
        settings: length and rates of the training.
        seed: seed of initial weights, order and augmentation.
        trained: values of a tower of half the width to start from, see :func:`widen`.
        checkpoint: file for the state, to go on from after an interruption.

    Returns:
        The image tower's tensors by name, and the log.
    """
    torch.manual_seed(seed)
    # The text tower is built with it and thrown away; one token keeps it small.
    tower = build_model(name, patch_dropout=settings.patch_dropout, vocabulary_size=1).visual
    heads = VisibleFacts(tower.output_dim)
    if trained is not None:
        widen(tower, trained, seed)
    images = torch.from_numpy(textures.images).permute(0, 3, 1, 2)
    targets = _fact_targets(textures)
    tower.train()

    def loss_of(step: int, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if step >= settings.steps - settings.whole_steps:
            tower.patch_dropout = nn.Identity()
        pixels = normalise(images[chosen])
        if step % 2 == 1:
            pixels = pixels.flip(3)
        loss, recognised = heads(tower(pixels), {name: t[chosen] for name, t in targets.items()})
        return loss, recognised

    parameters = [*tower.parameters(), *heads.parameters()]
    rows = batches(len(images), settings.batch, np.random.default_rng(seed))
    kept = Checkpoint(checkpoint, nn.ModuleList([tower, heads])) if checkpoint else None
    log = minimise("image tower", settings, parameters, rows, loss_of, checkpoint=kept)
    return tower.state_dict(), log


def train_text_tower(
    model: CLIP,
    textures: TextureSet,
    features: NDArray[np.float32],
    tokenizer: Tokenizer,
    settings: TextStage,
    seed: int,
) -> list[dict[str, float]]:
    """Train the text tower against frozen image features.

    Args:
        model: its text tower and temperature are trained in place, from their present weights.
        textures: the pretraining images; only their facts are used, for captions.
        features: their image features of unit length, (n, d).
        tokenizer: tokens of the captions.
        settings: length and rates of the training.
        seed: seed of captions and order.

    Returns:
        The log.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, 1))
    style = CaptionStyle(fine_name=settings.fine_name, full_stop=settings.full_stop)
    image_features = torch.from_numpy(features)
    pairs = torch.arange(settings.batch)
    model.train()

    def loss_of(_step: int, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        texts = [caption(rng, textures.facts[i], style)[0] for i in chosen.tolist()]
        text_features = model.encode_text(tokenizer(texts), normalize=True)
        scores = model.logit_scale.exp() * image_features[chosen] @ text_features.T
        loss = functional.cross_entropy(scores, pairs) + functional.cross_entropy(scores.T, pairs)
        return loss / 2, (scores.argmax(1) == pairs).float().mean()

    def limit_temperature() -> None:
        model.logit_scale.data.clamp_(0, math.log(100))

    parameters = [p for name, p in model.named_parameters() if not name.startswith("visual.")]
    rows = batches(len(features), settings.batch, rng)
    log = minimise("text tower", settings, parameters, rows, loss_of, limit_temperature)
    model.eval()
    return log


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
