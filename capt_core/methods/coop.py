"""CoOp: context vectors learnt in place of a prompt's words (Zhou et al., IJCV 2022).

A context shared by all classes carries over to classes it was not learnt on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.encoding import check_lengths, unit_features
from capt_core.backbone.loading import Backbone
from capt_core.learning.loop import Batch, Record
from capt_core.learning.optimisation import Optimisation
from capt_core.methods.classes import Classes
from capt_core.methods.feature_training import minimise, trained_images
from capt_core.methods.image_training import train_on_images
from capt_core.methods.method import Fitted, Method, Need
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.start import context_start, texts_with_context, word_count
from capt_core.methods.prompting.text import (
    Position,
    context_order,
    encode_text_with_prompts,
    token_embedding,
)
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged


class CoOpSettings(Optimisation, path="methods.coop"):
    """The section ``methods.coop``."""

    context_init: str | None = packaged(min_length=1)
    context_length: int = packaged(ge=1, le=1000)
    class_token_position: Position = packaged()
    class_specific: bool = packaged()
    images: Literal["stored", "augmented"] = packaged()


def readable_prompt(name: str, length: int, position: Position) -> str:
    """For people, who cannot read the vectors: ``[v1] [v2] [v3] [v4] name.``"""
    vectors = [f"[v{number}]" for number in range(1, length + 1)]
    half = {"end": length, "middle": length // 2, "front": 0}[position]
    return " ".join([*vectors[:half], name, *vectors[half:]]) + "."


def initial_context(settings: CoOpSettings, backbone: Backbone, seed: int) -> torch.Tensor:
    """Context before the first step: embedded words, or N(0, 0.02^2) drawn from a seed, [M, W].

    Raises:
        CaptError: `context_init` holds no words.
    """
    words = settings.context_init
    length = settings.context_length if words is None else word_count(words, backbone)
    return context_start(words, length, backbone, seed)


def context_features(
    context: torch.Tensor,
    names: Sequence[str],
    backbone: Backbone,
    position: Position = "end",
    batch_size: int = 256,
) -> torch.Tensor:
    """Unit-length text features [C, d] of class names with a context, fp32, on the CPU.

    Args:
        context: [M, W] for all names, or one for each, [C, M, W].
        names: of classes.
        backbone: encodes them.
        position: where a name stands.
        batch_size: names per forward pass.

    Raises:
        CaptError: a name is too long for the backbone with this context.
    """
    prompts = ContextTexts.of(names, context.shape[-2], backbone, position)
    features = []
    with torch.no_grad():
        for start in range(0, len(names), batch_size):
            rows = slice(start, start + batch_size)
            own = context if context.dim() == 2 else context[rows]
            with backbone.precision():
                encoded = prompts.part(rows).encode(backbone.clip, own.to(backbone.device))
            features.append(unit_features(encoded, backbone, "texts"))
    return torch.cat(features)


@dataclass(frozen=True)
class ContextTexts:
    """Texts of classes with room for a context.

    Attributes:
        tokens: ids with words or placeholders in front of each name, [C, L].
        order: see `context_order`; None leaves the names behind the context.
    """

    tokens: torch.Tensor
    order: torch.Tensor | None = None

    @staticmethod
    def of(
        names: Sequence[str], length: int, backbone: Backbone, position: Position = "end"
    ) -> ContextTexts:
        """Texts of class names for M = `length` vectors, on the backbone's device.

        Raises:
            CaptError: a name is too long for the backbone with this context.
        """
        texts = texts_with_context(names, None, length)
        check_lengths(texts, backbone)
        tokens = backbone.tokenizer(texts).to(backbone.device)
        if position == "end":
            return ContextTexts(tokens)
        lengths = [backbone.tokenizer.token_count(name) - 2 for name in names]
        return ContextTexts(tokens, context_order(lengths, length, tokens.shape[1], position))

    def part(self, rows: slice | torch.Tensor) -> ContextTexts:
        """Some of the texts, by a slice or by positions."""
        return ContextTexts(self.tokens[rows], None if self.order is None else self.order[rows])

    def encode(self, clip: Any, context: torch.Tensor) -> torch.Tensor:
        """Features [C, d] with a context [M, W] or [C, M, W], not normalised."""
        return encode_text_with_prompts(clip, self.tokens, [context], self.order)


class LearnedContext(Fitted):
    """CLIP whose class prompts hold learned vectors.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        context: [M, W], W the width of the text tower; or one for each of `names`, [C, M, W].
        names: classes that have a context of their own; others keep their prompt.
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        context: torch.Tensor,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(method, backbone)
        self.context = nn.Parameter(context)
        self.context_names = tuple(names)

    @property
    def position(self) -> Position:
        """Where a class name stands."""
        position: Position = self.method.settings.class_token_position
        return position

    def class_texts(self, classes: Classes) -> torch.Tensor:
        context, backbone = self.context.detach(), self.backbone
        if context.dim() == 2:
            return context_features(context, classes.prompt_names, backbone, self.position)
        texts = super().class_texts(classes)
        places = {name: place for place, name in enumerate(self.context_names)}
        known = [index for index, name in enumerate(classes.names) if name in places]
        if known:
            own = context[[places[classes.names[index]] for index in known]]
            names = [classes.prompt_names[index] for index in known]
            texts[known] = context_features(own, names, backbone, self.position)
        return texts

    def readable_prompts(self, classes: Classes) -> list[str]:
        length, own = self.context.shape[-2], set(self.context_names)
        return [
            prompt if own and name not in own else readable_prompt(spoken, length, self.position)
            for name, spoken, prompt in zip(
                classes.names, classes.prompt_names, classes.prompts, strict=True
            )
        ]

    def facts(self) -> dict[str, Any]:
        named = {"context_names": list(self.context_names)} if self.context_names else {}
        return {**super().facts(), **named}


@dataclass(frozen=True)
class ContextLoss:
    """Cross-entropy over the trained classes.

    Attributes:
        fitted: the context.
        texts: of the trained classes.
    """

    fitted: LearnedContext
    texts: ContextTexts

    def __call__(self, features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, Record]:
        """Of frozen image features [B, d] and positions of their classes [B]."""
        backbone = self.fitted.backbone
        with backbone.precision():
            encoded = self.texts.encode(backbone.clip, self.fitted.context)
        logits = class_logits(unit(features), unit(encoded), backbone.logit_scale)
        return functional.cross_entropy(logits, labels), {}

    def of_images(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, Record]:
        """Of images [B, 3, S, S], which pass the frozen tower."""
        with torch.no_grad(), self.fitted.backbone.precision():
            features = self.fitted.encode(images)
        return self(features, labels)


class CoOp(Method):
    """A context learned by cross-entropy over the trained classes.

    With `images` augmented they are cropped and flipped anew in every epoch and pass the frozen
    tower each time, as in the paper; `stored` is a speed-up that learns on stored features of the
    test view instead.
    """

    name = "coop"
    label = "CoOp"
    citation = "Zhou et al., IJCV 2022"
    Settings = CoOpSettings

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings)
        if self.settings.images == "augmented":
            self.needs = frozenset({Need.PIXELS})

    def check_clip(self, clip: Any) -> None:
        token_embedding(clip)

    def start(self, backbone: Backbone, seed: int, names: Sequence[str]) -> LearnedContext:
        """The context before the first step, one for each of `names` if it is class-specific.

        Raises:
            CaptError: `context_init` holds no words.
        """
        context = initial_context(self.settings, backbone, seed)
        if not self.settings.class_specific:
            return LearnedContext(self, backbone, context)
        return LearnedContext(self, backbone, context.repeat(len(names), 1, 1), names)

    def fit(self, task: Task) -> LearnedContext:
        backbone, dataset = task.backbone, task.dataset
        trained = [dataset.class_names[class_id] for class_id in task.trained_classes]
        fitted = self.start(backbone, task.seed, trained).to(backbone.device)
        names = [dataset.prompt_names[class_id] for class_id in task.trained_classes]
        texts = ContextTexts.of(names, fitted.context.shape[-2], backbone, fitted.position)
        loss = ContextLoss(fitted, texts)
        if self.settings.images == "augmented":
            return train_on_images(self, task, fitted, [fitted.context], loss.of_images)
        images = trained_images(task)

        def loss_of(batch: Batch) -> tuple[torch.Tensor, Record]:
            return loss(images.features[batch.samples], images.labels[batch.samples])

        return minimise(self, task, fitted, [fitted.context], len(images.labels), loss_of)

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> LearnedContext:
        names = facts.get("context_names", ())
        return LearnedContext(self, backbone, tensors["context"], names)
