"""DPC on CoOp: a context tuned beside the backbone's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import nn

from capt_core.backbone.loading import Backbone
from capt_core.methods.classes import Classes
from capt_core.methods.coop import ContextTexts, LearnedContext, context_features
from capt_core.methods.dpc.dual import DualPrompts, Learner
from capt_core.methods.dpc.mining import MINING_SCALE, Rows, mined_probabilities
from capt_core.methods.dpc.mixing import Variant, parallel_prompt, weighted_prompt
from capt_core.methods.method import Fitted, Method
from capt_core.methods.prompting.fitted import unit


class DualContext(DualPrompts):
    """A learned context and one that was tuned from it.

    Args:
        method: with the settings it was fitted with.
        base: the backbone, whose context P is shared by all classes.
        names: of the trained classes.
        mixed: q, of the shape of P.
    """

    negatives_view = "crop_flip"

    def __init__(
        self, method: Method, base: LearnedContext, names: Sequence[str], mixed: torch.Tensor
    ) -> None:
        super().__init__(method, base, names)
        self.base: LearnedContext
        self.mixed = nn.Parameter(mixed)

    @classmethod
    def cloned(
        cls, method: Method, base: Fitted, names: Sequence[str], teacher: Fitted | None
    ) -> Self:
        assert isinstance(base, LearnedContext)
        return cls(method, base, names, base.context.detach().clone())

    @classmethod
    def restored(
        cls,
        method: Method,
        base: Fitted,
        names: Sequence[str],
        tensors: Mapping[str, torch.Tensor],
    ) -> Self:
        assert isinstance(base, LearnedContext)
        return cls(method, base, names, tensors["mixed"])

    def parallel_prompt(self) -> torch.Tensor:
        """P', [M, W], with gradients for q."""
        settings = self.method.settings
        backbone = self.base.context.detach()
        return parallel_prompt(self.mixed, backbone, settings.weight_base, settings.variant)

    @torch.no_grad()
    def prompt_for_others(self) -> torch.Tensor:
        """Of classes that were not trained, [M, W]."""
        weight = self.method.settings.weight_new
        return weighted_prompt(self.parallel_prompt(), self.base.context, weight)

    def tuned_texts(self, classes: Classes) -> torch.Tensor:
        return self._texts(self.parallel_prompt().detach(), classes)

    def other_texts(self, classes: Classes) -> torch.Tensor:
        return self._texts(self.prompt_for_others(), classes)

    def _texts(self, context: torch.Tensor, classes: Classes) -> torch.Tensor:
        return context_features(context, classes.prompt_names, self.backbone, self.base.position)

    def learner(self, names: Sequence[str], teacher: Fitted | None) -> ContextLearner:
        length = self.base.context.shape[0]
        return ContextLearner(
            self, ContextTexts.of(names, length, self.backbone, self.base.position)
        )


def random_range(count: int, variant: Variant) -> range:
    """Classes, of `count`, that random negatives are drawn among.

    The released code never draws the first class, nor the last.
    """
    return range(count) if variant == "decoupled" else range(1, count - 1)


@dataclass(frozen=True)
class ContextLearner(Learner):
    """A `DualContext` with the texts of its trained classes.

    Attributes:
        fitted: what is trained.
        texts: of the trained classes.
        mining_scale: inverse temperature of `probabilities`.
    """

    fitted: DualContext
    texts: ContextTexts
    mining_scale: float = MINING_SCALE

    @property
    def logit_scale(self) -> float:
        return self.fitted.backbone.logit_scale

    @property
    def among(self) -> range:
        return random_range(len(self.texts.tokens), self.fitted.method.settings.variant)

    @property
    def mined_by(self) -> Backbone:
        return self.fitted.backbone

    @torch.no_grad()
    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Of the frozen tower, [B, d], not normalised."""
        with self.fitted.backbone.precision():
            return self.fitted.encode(images)

    @cached_property
    def backbone_texts(self) -> torch.Tensor:
        """Of all trained classes by the backbone's context, [C, d], not normalised."""
        fitted = self.fitted
        with torch.no_grad(), fitted.backbone.precision():
            return self.texts.encode(fitted.backbone.clip, fitted.base.context)

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        features, texts = unit(self.image_features(images)), unit(self.backbone_texts)
        return mined_probabilities(features, texts, self.mining_scale)

    def compared(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        fitted, texts = self.fitted, self.texts.part(rows.labels)
        with fitted.backbone.precision():
            encoded = texts.encode(fitted.backbone.clip, fitted.parallel_prompt())
        return unit(self.image_features(rows.images)), unit(encoded)
