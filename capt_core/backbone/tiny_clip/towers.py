"""The two pretraining stages: the image tower with labels, then the text tower on captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from capt_core.backbone.tiny_clip.corpus import TextureSet
from capt_core.backbone.tiny_clip.facts import VisibleFacts, fact_targets
from capt_core.backbone.tiny_clip.model import build_model, normalise
from capt_core.backbone.tiny_clip.optimisation import Checkpoint, Schedule, batches, minimise
from capt_core.backbone.tiny_clip.tokenizer import Tokenizer
from capt_core.backbone.tiny_clip.widening import widen
from capt_core.data.proctex.captions import CaptionStyle, caption

if TYPE_CHECKING:
    from open_clip.model import CLIP


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
    targets = fact_targets(textures)
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
    after_step: Callable[[], object] = lambda: None,
) -> list[dict[str, float]]:
    """Train the text tower against frozen image features.

    Args:
        model: its text tower and temperature are trained in place, from their present weights.
        textures: the pretraining images; only their facts are used, for captions.
        features: their image features of unit length, (n, d).
        tokenizer: tokens of the captions.
        settings: length and rates of the training.
        seed: seed of captions and order.
        after_step: called after each step.

    Returns:
        The log.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, 1))
    style = CaptionStyle(fine_name=settings.fine_name, full_stop=settings.full_stop)
    device = model.logit_scale.device
    image_features = torch.from_numpy(features).to(device)
    pairs = torch.arange(settings.batch, device=device)
    model.train()

    def loss_of(_step: int, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        texts = [caption(rng, textures.facts[i], style)[0] for i in chosen.tolist()]
        text_features = model.encode_text(tokenizer(texts).to(device), normalize=True)
        scores = model.logit_scale.exp() * image_features[chosen.to(device)] @ text_features.T
        loss = functional.cross_entropy(scores, pairs) + functional.cross_entropy(scores.T, pairs)
        return loss / 2, (scores.argmax(1) == pairs).float().mean()

    def end_step() -> None:
        model.logit_scale.data.clamp_(0, math.log(100))
        after_step()

    parameters = [p for name, p in model.named_parameters() if not name.startswith("visual.")]
    rows = batches(len(features), settings.batch, rng)
    log = minimise("text tower", settings, parameters, rows, loss_of, end_step)
    model.eval()
    return log
