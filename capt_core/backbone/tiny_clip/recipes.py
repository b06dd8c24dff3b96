"""How each of the two tiny CLIPs is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from capt_core.backbone.identity import TINY_CLIP, TINY_CLIP_TEACHER
from capt_core.backbone.tiny_clip.towers import ImageStage, TextStage


@dataclass(frozen=True)
class Recipe:
    """Settings of a model's training.

    Attributes:
        seed: of the images, the initial weights, the captions and the order.
        image_stage: training of the image tower.
        text_stage: training of the text tower.
        widened: the packaged model of half the width that the image tower starts from; None
            for one that starts from random values.
        per_class: images of each class.
    """

    seed: int
    image_stage: ImageStage
    text_stage: TextStage
    widened: str | None = None
    per_class: int = 1600


RECIPES: Final = {
    TINY_CLIP: Recipe(seed=0, image_stage=ImageStage(), text_stage=TextStage()),
    # Other images than the first model's, so that its tower learns from new ones.
    TINY_CLIP_TEACHER: Recipe(
        seed=1,
        image_stage=ImageStage(
            steps=600, whole_steps=100, learning_rate=5e-4, warm_up=50, report_every=50
        ),
        text_stage=TextStage(steps=450, fine_name=1.0, full_stop=0.3, per_class=400),
        widened=TINY_CLIP,
    ),
}
"""Recipes by name of the model."""
