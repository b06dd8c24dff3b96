"""Second pretraining stage: the text tower learns captions against frozen image features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from capt_core.backbone.tiny_clip.corpus import TextureSet
from capt_core.backbone.tiny_clip.optimisation import Meter, adamw, batches, rate_share
from capt_core.backbone.tiny_clip.tokenizer import Tokenizer
from capt_core.data.proctex.captions import CaptionStyle, caption

if TYPE_CHECKING:
    from open_clip.model import CLIP


@dataclass(frozen=True)
class TextStage:
    """Settings of the text tower's training."""

    steps: int = 350
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: int = 50
    fine_name: float = 0.03


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
        features: their image features of unit length, (n, 128).
        tokenizer: tokens of the captions.
        settings: length and rates of the training.
        seed: seed of captions and order.

    Returns:
        The log.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, 1))
    style = CaptionStyle(fine_name=settings.fine_name)
    parameters = [(n, p) for n, p in model.named_parameters() if not n.startswith("visual.")]
    optimizer, rate = adamw(parameters, settings.learning_rate, settings.weight_decay)
    image_features = torch.from_numpy(features)
    rows = batches(len(features), settings.batch, rng)
    meter = Meter("text tower", settings.batch)
    pairs = torch.arange(settings.batch)
    model.train()
    for step in range(settings.steps):
        chosen = next(rows)
        texts = [caption(rng, textures.facts[i], style)[0] for i in chosen.tolist()]
        rate(rate_share(step, settings.steps, settings.warm_up))
        text_features = model.encode_text(tokenizer(texts), normalize=True)
        scores = model.logit_scale.exp() * image_features[chosen] @ text_features.T
        loss = (
            functional.cross_entropy(scores, pairs) + functional.cross_entropy(scores.T, pairs)
        ) / 2
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([p for _, p in parameters], 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        meter.add(loss.item(), (scores.argmax(1) == pairs).float().mean().item())
        if (step + 1) % 50 == 0 or step + 1 == settings.steps:
            meter.report(step + 1)
    meter.check()
    model.eval()
    return meter.rows
