"""What Spotlighter and its plug-in on PromptKD have in common: logits of what a memory refined."""

from __future__ import annotations

from abc import abstractmethod

import torch

from capt_core.errors import CaptError
from capt_core.learning.optimisation import Optimisation
from capt_core.methods.classes import Classes
from capt_core.methods.method import Fitted, Scorer
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.spotlighter.memory import Keep, Memory
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged


class MemorySettings(Optimisation):
    """Settings of the memory and of what it refines."""

    memory_size: int = packaged(ge=1, le=65_536)
    memory_momentum: float = packaged(ge=0, le=1)
    refinement: float = packaged(ge=0, le=1000)
    attention_heads: int = packaged(ge=1, le=1024)
    head_dropout: float = packaged(ge=0, lt=1)
    training_share: float = packaged(ge=0, le=1)
    test_share: float = packaged(ge=0, le=1)

    def memory(self, width: int, seed: int) -> Memory:
        """The memory of features of d = `width` dimensions before the first step.

        Raises:
            CaptError: see `check_heads`.
        """
        check_heads(width, self.attention_heads)
        return Memory(
            width,
            self.memory_size,
            self.memory_momentum,
            self.refinement,
            self.attention_heads,
            self.head_dropout,
            seed,
        )


def check_heads(width: int, heads: int) -> None:
    """Refuse features that the attention cannot share out.

    Raises:
        CaptError: `heads` is no divisor of `width`.
    """
    if width % heads:
        raise CaptError(
            f"features of {width} dimensions do not divide among {heads} heads; set "
            "attention_heads to a divisor"
        )


class RefinedByMemory(Fitted):
    """A method whose class texts and image features are refined by a memory.

    Placed before the class whose features and texts these are.
    """

    memory: Memory

    @abstractmethod
    def refined_image(self, features: torch.Tensor, keep: Keep | None = None) -> torch.Tensor:
        """What the attention makes of unit-length features [N, d], [N, d], not normalised.

        `keep` is None outside of training.
        """

    def refined_logits(
        self, features: torch.Tensor, refined: torch.Tensor, texts: torch.Tensor, share: float
    ) -> torch.Tensor:
        """Logits [N, C] of (1 - share) f + share refined f with refined texts.

        Args:
            features: f, unit length, [N, d].
            refined: of `refined_image`, [N, d].
            texts: of `Memory.refined_texts`, [C, d].
            share: of the refined feature.
        """
        mixed = (1 - share) * features + share * refined
        return class_logits(mixed, texts, self.backbone.logit_scale)

    @torch.no_grad()
    def refined_class_texts(self, classes: Classes) -> torch.Tensor:
        """Refined texts [C, d], not normalised, on the memory's device."""
        return self.memory.refined_texts(super().class_texts(classes).to(self.memory.slots))

    def class_texts(self, classes: Classes) -> torch.Tensor:
        return unit(self.refined_class_texts(classes)).cpu()

    def scorer(self, classes: Classes, texts: torch.Tensor | None = None) -> Scorer:
        # Refined texts have a length, which `class_texts` do not tell.
        refined, share = self.refined_class_texts(classes), self.method.settings.test_share

        def score(features: torch.Tensor) -> torch.Tensor:
            own = features.to(refined)
            return self.refined_logits(own, self.refined_image(own), refined, share).to(features)

        return score
