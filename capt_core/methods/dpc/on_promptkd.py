"""DPC on PromptKD: a student tuned with its teacher's text prompts, beside the distilled one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.methods.classes import Classes
from capt_core.methods.dpc.dual import DualPrompts, Learner
from capt_core.methods.dpc.mining import MINING_SCALE, Rows, mined_probabilities
from capt_core.methods.dpc.mixing import Variant, parallel_prompt, weighted_prompt
from capt_core.methods.method import Fitted, Method, Scorer
from capt_core.methods.prompting.fitted import TEXTS_AT_ONCE, PromptedClip, unit
from capt_core.methods.prompting.start import embedded_words
from capt_core.methods.prompting.text import encode_text_with_prompts
from capt_core.methods.promptkd import PromptedStudent, StudentTower
from capt_core.methods.zero_shot import class_logits


class DualDistilled(DualPrompts):
    """A distilled student and one that was tuned from it, with the teacher's text prompts.

    Trained classes are compared with images as the tuned student encodes them, others with images
    as the distilled one does, so features are those of both, side by side. The texts of the trained
    classes are kept: the teacher is not needed for them.

    Args:
        method: with the settings it was fitted with.
        base: the distilled student.
        names: of the trained classes.
        text: text prompts of the teacher, by depth, each [n, W]. The first, P, is decoupled, and q
            is held here; the others are tuned as they are.
    """

    frozen_tower = False
    negatives_view = "none"

    def __init__(
        self,
        method: Method,
        base: PromptedStudent,
        names: Sequence[str],
        text: torch.Tensor | Sequence[torch.Tensor],
    ) -> None:
        super().__init__(method, base, names)
        self.base: PromptedStudent
        context, *deep = (prompt.detach() for prompt in text)
        self.mixed = nn.Parameter(context.clone())
        stacked = torch.stack(deep) if deep else context.new_empty(0, *context.shape)
        self.deep = nn.Parameter(stacked)
        self.image = nn.Parameter(base.image.detach().clone())
        self.projector = deepcopy(base.projector).requires_grad_(True)
        self.texts: torch.Tensor
        width = self.projector.conv2.weight.shape[0]
        self.register_buffer("texts", self.mixed.new_zeros(len(names), width))

    @classmethod
    def cloned(
        cls, method: Method, base: Fitted, names: Sequence[str], teacher: Fitted | None
    ) -> Self:
        assert isinstance(base, PromptedStudent)
        found = prompted_teacher(teacher)
        base.take_teacher(found)
        return cls(method, base, names, found.text_prompts())

    @classmethod
    def restored(
        cls,
        method: Method,
        base: Fitted,
        names: Sequence[str],
        tensors: Mapping[str, torch.Tensor],
    ) -> Self:
        assert isinstance(base, PromptedStudent)
        fitted = cls(method, base, names, [tensors["mixed"], *tensors["deep"]])
        fitted.load_state_dict(dict(tensors))
        return fitted

    def tuned_features(self, images: torch.Tensor) -> torch.Tensor:
        """Of images [B, 3, S, S], for trained classes, not normalised, [B, b]."""
        return StudentTower(self.backbone.clip.visual, self.image, self.projector).encode(images)

    def other_features(self, images: torch.Tensor) -> torch.Tensor:
        """Of images [B, 3, S, S], for other classes, not normalised, [B, b].

        The projector and its running statistics are those of the base model.
        """
        weight = self.method.settings.weight_new
        prompts = weighted_prompt(self.image, self.base.image, weight)
        visual = self.backbone.clip.visual
        return StudentTower(visual, prompts, self.base.projector).encode(images)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Image tensors [B, 3, S, S] to features for trained and for other classes, [B, 2 b]."""
        return side_by_side(self.tuned_features(images), self.other_features(images))

    def encode_with_start(
        self, images: torch.Tensor, start: Fitted
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if start is not self.base or self.method.settings.weight_new:
            return super().encode_with_start(images, start)
        other = self.other_features(images)
        return side_by_side(self.tuned_features(images), other), other

    def scorer(self, classes: Classes, texts: torch.Tensor | None = None) -> Scorer:
        compared = self.class_texts(classes) if texts is None else texts
        scale = self.backbone.logit_scale
        trained = torch.tensor(self.is_trained(classes))

        def score(features: torch.Tensor) -> torch.Tensor:
            tuned, other = (
                class_logits(functional.normalize(half, dim=-1), compared.to(features), scale)
                for half in features.chunk(2, dim=-1)
            )
            return torch.where(trained.to(features.device), tuned, other)

        return score

    def tuned_texts(self, classes: Classes) -> torch.Tensor:
        row = {name: index for index, name in enumerate(self.names)}
        return self.texts[[row[name] for name in classes.names]].float().cpu()

    def other_texts(self, classes: Classes) -> torch.Tensor:
        return self.base.class_texts(classes)

    def learner(self, names: Sequence[str], teacher: Fitted | None) -> DistilledLearner:
        found = prompted_teacher(teacher)
        found.to(found.backbone.device).eval()
        return DistilledLearner(self, found, found.tokens(names))


def side_by_side(tuned: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Two features [B, b], each at unit length, as one [B, 2 b]."""
    return torch.cat([unit(tuned), unit(other)], dim=-1)


def prompted_teacher(teacher: Fitted | None) -> PromptedClip:
    """The teacher of a student, whose text prompts are tuned.

    Raises:
        CaptError: none is at hand, or it has no text prompts.
    """
    if teacher is None:
        raise CaptError(
            "dpc: on promptkd it tunes the text prompts of its base model's teacher, and none is "
            "given; in Python, fit('dpc', ..., teacher=MODEL)"
        )
    if not isinstance(teacher, PromptedClip):
        raise CaptError(
            f"dpc: on promptkd it tunes the teacher's text prompts, and {teacher.method.name} has "
            "none; take a teacher fitted with promptsrc or maple"
        )
    return teacher


def random_range(count: int, variant: Variant) -> range:
    """Classes, of `count`, that random negatives are drawn among.

    The released code never draws the first class.
    """
    return range(count) if variant == "decoupled" else range(1, count)


@dataclass(frozen=True)
class DistilledLearner(Learner):
    """A `DualDistilled` with its teacher.

    Attributes:
        fitted: what is trained.
        teacher: frozen.
        tokens: ids of the trained classes' texts behind the words of the context, [C, L].
        mining_scale: inverse temperature of `probabilities`.
    """

    fitted: DualDistilled
    teacher: PromptedClip
    tokens: torch.Tensor
    mining_scale: float = MINING_SCALE

    @property
    def logit_scale(self) -> float:
        return self.fitted.backbone.logit_scale

    @property
    def among(self) -> range:
        return random_range(len(self.tokens), self.fitted.method.settings.variant)

    @property
    def mined_by(self) -> Backbone:
        return self.teacher.backbone

    def parallel_prompt(self) -> torch.Tensor:
        """P', [n, W], with gradients for q."""
        settings, mixed = self.fitted.method.settings, self.fitted.mixed
        context = self.teacher.text_prompts()[0].detach().to(mixed.device)
        return parallel_prompt(mixed, context, settings.weight_base, settings.variant)

    def tuned_texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Texts [L, T] by the tuned prompts, not normalised, [L, b]."""
        backbone = self.teacher.backbone
        prompts = [each.to(tokens.device) for each in (self.parallel_prompt(), *self.fitted.deep)]
        with backbone.precision():
            return encode_text_with_prompts(backbone.clip, tokens, prompts)

    def mining_context(self) -> torch.Tensor:
        """The teacher's context, P; the released code leaves the words that it started from."""
        context, *_ = self.teacher.text_prompts()
        if self.fitted.method.settings.variant == "decoupled":
            return context
        return embedded_words(self.tokens[0], len(context), self.teacher.backbone.clip)

    @cached_property
    def backbone_texts(self) -> torch.Tensor:
        """Of all trained classes as they are mined, [C, b], not normalised."""
        backbone, (_, *deep) = self.teacher.backbone, self.teacher.text_prompts()
        with torch.no_grad(), backbone.precision():
            prompts = [self.mining_context(), *deep]
            return encode_text_with_prompts(backbone.clip, self.tokens, prompts)

    @torch.no_grad()
    def teacher_features(self, images: torch.Tensor) -> torch.Tensor:
        """Of images as the teacher takes them, not normalised, [B, b]."""
        with self.teacher.backbone.precision():
            return self.teacher.encode(images)

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        features, texts = unit(self.teacher_features(images)), unit(self.backbone_texts)
        return mined_probabilities(features, texts, self.mining_scale)

    def compared(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        with self.fitted.backbone.precision():
            features = unit(self.fitted.tuned_features(rows.images))
        texts = unit(self.tuned_texts(self.tokens[rows.labels.to(self.tokens.device)]))
        return features, texts.to(features.device)

    @torch.no_grad()
    def keep_texts(self) -> None:
        starts = range(0, len(self.tokens), TEXTS_AT_ONCE)
        parts = [self.tuned_texts(self.tokens[start : start + TEXTS_AT_ONCE]) for start in starts]
        self.fitted.texts.copy_(unit(torch.cat(parts)))
