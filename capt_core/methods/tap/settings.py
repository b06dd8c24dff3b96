"""TAP's settings, and the epochs of its two phases in turn."""

from __future__ import annotations

import math
from typing import NamedTuple

from capt_core.learning.optimisation import epoch_learning_rates
from capt_core.methods.prompting.fitted import PromptSettings
from capt_core.settings_file import packaged


class Phase(NamedTuple):
    """What an epoch of the alternation trains: the context (`text`) or the image side."""

    text: bool
    epoch: int  # of its own phase, from 1


def alternation(vision_epochs: int, text_epochs: int) -> list[Phase]:
    """Epochs of both phases in turn: the j-th of T text epochs follows j V / T vision epochs."""
    phases, done = [], 0
    for text_epoch in range(1, text_epochs + 1):
        end = math.ceil(text_epoch * vision_epochs / text_epochs)
        phases += [Phase(False, epoch) for epoch in range(done + 1, end + 1)]
        phases.append(Phase(True, text_epoch))
        done = end
    return phases


class TapSettings(PromptSettings, path="methods.tap"):
    """The section ``methods.tap``; `epochs` and `learning_rate` are those of the vision phase."""

    text_epochs: int = packaged(ge=1, le=100_000)
    text_learning_rate: float = packaged(gt=0, le=1000)
    length_quantile: float = packaged(gt=0, le=1)
    class_weight: float = packaged(ge=0, le=1)
    image_weight: float = packaged(ge=0, le=1e6)
    logits_weight: float = packaged(ge=0, le=1e6)
    contrast_weight: float = packaged(ge=0, le=1e6)
    text_classes: int = packaged(ge=2, le=100_000)
    gaussian_mean: float = packaged(ge=-100, le=100)
    gaussian_deviation: float = packaged(ge=0.001, le=100)

    @property
    def phases(self) -> list[Phase]:
        """Of every epoch of the training."""
        return alternation(self.epochs, self.text_epochs)

    @property
    def rates(self) -> list[float]:
        """Each phase has a schedule of its own, with its own warm-up."""
        warmup = self.warmup_epochs, self.warmup_learning_rate
        vision = epoch_learning_rates(self.learning_rate, self.epochs, *warmup)
        text = epoch_learning_rates(self.text_learning_rate, self.text_epochs, *warmup)
        return [(text if phase.text else vision)[phase.epoch - 1] for phase in self.phases]
