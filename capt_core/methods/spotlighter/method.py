"""Spotlighter on CoOp: a learned context, attended tokens as further examples, and a memory.

Gao et al., "Spotlighter: Revisiting Prompt Tuning from a Representative Mining View", EMNLP 2025,
as its authors' code has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.learning.loop import Record
from capt_core.methods.coop import ContextTexts, LearnedContext
from capt_core.methods.image_tower import ImageTower
from capt_core.methods.image_training import train_on_images
from capt_core.methods.method import Method, Need
from capt_core.methods.projector import projector_start
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.start import context_start
from capt_core.methods.prompting.text import Position, token_embedding
from capt_core.methods.prompting.zero_shot_reference import feature_distance
from capt_core.methods.spotlighter.memory import Keep
from capt_core.methods.spotlighter.refined import MemorySettings, RefinedByMemory, check_heads
from capt_core.methods.spotlighter.tokens import (
    Selection,
    check_tower,
    image_tokens,
    projected_tokens,
    selected_tokens,
    token_rows,
)
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged


class SpotlighterSettings(MemorySettings, path="methods.spotlighter"):
    """The section ``methods.spotlighter``."""

    selection: Selection = packaged()
    context_init: str | None = packaged(min_length=1)
    context_length: int = packaged(ge=1, le=1000)
    token_weight: float = packaged(ge=0, le=1e6)
    distillation_weight: float = packaged(ge=0, le=1e6)


class SpotlightedClip(RefinedByMemory, LearnedContext):
    """CLIP with a learned context whose texts and images are refined by a memory.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        context: [M, W].
        seed: of the random starts of memory and projector.
    """

    def __init__(
        self, method: Method, backbone: Backbone, context: torch.Tensor, seed: int = 0
    ) -> None:
        super().__init__(method, backbone, context)
        width = backbone.clip.visual.output_dim
        self.memory = method.settings.memory(width, seed)
        self.projector = projector_start(width, width, seed)  # of tokens, while training

    @property
    def position(self) -> Position:
        return "end"

    def refined_image(self, features: torch.Tensor, keep: Keep | None = None) -> torch.Tensor:
        read = self.memory.read(features)
        refined: torch.Tensor = self.memory.attention(features, read, read, keep)
        return refined


class SpotlighterLoss:
    """Cross-entropy of images and of their attended tokens, and what holds what is refined.

    Each call is one training step: it moves the memory, after it was read.

    Args:
        fitted: what is trained.
        texts: of the trained classes.
        seed: of the heads that are left out.
    """

    def __init__(self, fitted: SpotlightedClip, texts: ContextTexts, seed: int) -> None:
        self.fitted = fitted
        self.texts = texts
        self.seed = seed

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, Record]:
        """Of images [B, 3, S, S] and positions of their classes [B]."""
        keep = self.fitted.memory.next_keep(len(images), self.seed)
        parts, projected = self.parts(images, labels, keep)
        self.fitted.memory.update(projected.flatten(0, 1))
        return self.total(parts), {f"{name}_loss": part.item() for name, part in parts.items()}

    def parts(
        self, images: torch.Tensor, labels: torch.Tensor, keep: Keep
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Each term without its weight, and the projected tokens [B, 1 + N, d].

        Args:
            images: [B, 3, S, S].
            labels: positions of their classes, [B].
            keep: heads that are kept.
        """
        fitted, backbone = self.fitted, self.fitted.backbone
        memory, settings = fitted.memory, fitted.method.settings
        with torch.no_grad(), backbone.precision():
            tokens = image_tokens(ImageTower(backbone.clip.visual), images)
        with backbone.precision():
            texts = unit(self.texts.encode(backbone.clip, fitted.context))
        features = unit(tokens.features[:, 0])
        projected = projected_tokens(fitted.projector, tokens.features.to(memory.slots.dtype))
        rows = token_rows(projected, selected_tokens(tokens.attention, settings.selection))
        refined_texts = memory.refined_texts(texts)
        refined = fitted.refined_image(features, keep)
        logits = fitted.refined_logits(features, refined, refined_texts, settings.training_share)
        parts = {"image": functional.cross_entropy(logits, labels)}
        for name, group in rows.items():
            told = class_logits(group, texts, backbone.logit_scale)
            repeated = labels.repeat_interleave(len(group) // len(labels))
            parts[name] = functional.cross_entropy(told, repeated)
        parts["text_distance"] = feature_distance(unit(refined_texts), texts)
        parts["image_distance"] = feature_distance(unit(refined), features)
        return parts, projected

    def total(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weighted sum of the terms."""
        settings = self.fitted.method.settings
        rows = parts["top7"] + parts["top2"] + parts["low3"]
        distances = parts["text_distance"] + parts["image_distance"]
        held = settings.distillation_weight * distances
        total: torch.Tensor = parts["image"] + settings.token_weight * rows + held
        return total


class Spotlighter(Method):
    """A context learned by cross-entropy on images and on the tokens that they attend to.

    The memory is part of the model: class texts of any names are refined by what training left in
    it.
    """

    name = "spotlighter"
    label = "Spotlighter"
    citation = "Gao et al., EMNLP 2025"
    needs = frozenset({Need.PIXELS})
    compares_texts = False
    Settings = SpotlighterSettings

    def check_clip(self, clip: Any) -> None:
        token_embedding(clip)
        check_tower(clip.visual)
        check_heads(clip.visual.output_dim, self.settings.attention_heads)

    def start(self, backbone: Backbone, seed: int) -> SpotlightedClip:
        """Context, memory and projector before the first step.

        Raises:
            CaptError: fewer words than vectors.
        """
        settings = self.settings
        context = context_start(settings.context_init, settings.context_length, backbone, seed)
        return SpotlightedClip(self, backbone, context, seed)

    def fit(self, task: Task) -> SpotlightedClip:
        backbone, dataset = task.backbone, task.dataset
        fitted = self.start(backbone, task.seed).to(backbone.device).train()
        names = [dataset.prompt_names[class_id] for class_id in task.trained_classes]
        texts = ContextTexts.of(names, len(fitted.context), backbone)
        loss = SpotlighterLoss(fitted, texts, task.seed)
        parameters: list[nn.Parameter] = list(fitted.parameters())
        return train_on_images(self, task, fitted, parameters, loss)

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> SpotlightedClip:
        fitted = SpotlightedClip(self, backbone, torch.zeros_like(tensors["context"]))
        fitted.load_state_dict(dict(tensors))
        return fitted
