"""Spotlighter as a plug-in of PromptKD: the student's attended tokens are distilled, too.

Gao et al., EMNLP 2025, as its authors' code has it; PromptKD is Li et al., CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import torch

from capt_core.backbone.loading import Backbone
from capt_core.learning.loop import Record
from capt_core.learning.randomness import draw_seed
from capt_core.methods.frozen_teacher import FrozenTeacher, named
from capt_core.methods.method import Method, named_vectors
from capt_core.methods.projector import Projector, projector_start
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.start import image_prompts_start
from capt_core.methods.prompting.zero_shot_reference import feature_distance, logits_distance
from capt_core.methods.promptkd import DistillationSettings, PromptedStudent, PromptKD
from capt_core.methods.spotlighter.memory import Keep, Memory
from capt_core.methods.spotlighter.refined import MemorySettings, RefinedByMemory
from capt_core.methods.spotlighter.tokens import (
    check_tower,
    image_tokens,
    projected_tokens,
    selected_tokens,
    token_rows,
)
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged


class SpotlighterPromptKDSettings(
    DistillationSettings, MemorySettings, path="methods.spotlighter_promptkd"
):
    """The section ``methods.spotlighter_promptkd``."""

    token_weight: float = packaged(ge=0, le=1e6)
    group_weight: float = packaged(ge=0, le=1e6)
    text_weight: float = packaged(ge=0, le=1e6)
    image_weight: float = packaged(ge=0, le=1e6)


class SpotlightedStudent(RefinedByMemory, PromptedStudent):
    """A student of PromptKD whose features and texts are refined by a memory.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        image: prompts, [J, P, D], by depth.
        projector: of the class token (the head), from the tower's dimension to the teacher's.
        token_projector: of all tokens, while training, likewise.
        memory: of features in the teacher's dimension.
        class_vectors: the teacher's texts by class name, each [b], unit length.
        taught_by: the teacher's method and backbone.
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        image: torch.Tensor,
        projector: Projector,
        token_projector: Projector,
        memory: Memory,
        class_vectors: Mapping[str, torch.Tensor] | None = None,
        taught_by: str = "",
    ) -> None:
        super().__init__(method, backbone, image, projector, class_vectors, taught_by)
        self.token_projector = token_projector
        self.memory = memory

    def refined_image(self, features: torch.Tensor, keep: Keep | None = None) -> torch.Tensor:
        # The value is the feature itself, so that the memory has no say in it.
        read, attention = self.memory.read(features), self.memory.attention
        refined: torch.Tensor = attention(features, read, features, keep)
        return refined


class SpotlightedDistillation:
    """Divergence from the teacher of images and of their attended tokens, and what holds both.

    Each call is one training step: it moves the memory, after it was read.

    Args:
        student: what is trained.
        teacher: gives the predictions to be met.
        weight: K, of the whole.
        seed: of the heads that are left out.
    """

    def __init__(
        self, student: SpotlightedStudent, teacher: FrozenTeacher, weight: float, seed: int
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.weight = weight
        self.seed = seed

    def __call__(self, images: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, Record]:
        """Of images as the student takes them, [B, 3, S, S], and as the teacher does."""
        return self.step(images, self.teacher.logits(seen))

    def step(self, images: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, Record]:
        """Of images [B, 3, S, S] and the teacher's logits [B, C]."""
        memory = self.student.memory
        parts, projected, _ = self.parts(images, target, memory.next_keep(len(images), self.seed))
        memory.update(projected.flatten(0, 1))
        return self.total(parts), {f"{name}_loss": part.item() for name, part in parts.items()}

    def parts(
        self, images: torch.Tensor, target: torch.Tensor, keep: Keep
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Each term without its weight, projected tokens [B, 1 + N, b], selected ones [B, 5].

        Args:
            images: [B, 3, S, S].
            target: the teacher's logits, [B, C].
            keep: heads that are kept.
        """
        student, settings = self.student, self.student.method.settings
        backbone, memory = student.backbone, student.memory
        with backbone.precision():
            tokens = image_tokens(student.image_tower(), images)
            features = unit(student.projector(tokens.features[:, 0]))
            projected = projected_tokens(student.token_projector, tokens.features)
        projected = projected.to(memory.slots.dtype)
        texts, target = self.teacher.texts.to(features), target.to(features)
        selected = selected_tokens(tokens.attention, "corrected")
        refined_texts = memory.refined_texts(texts)
        refined = student.refined_image(features, keep)
        logits = student.refined_logits(features, refined, refined_texts, settings.training_share)
        temperature = settings.temperature
        parts = {"divergence": logits_distance(logits, target, temperature)}
        for name, group in token_rows(projected, selected).items():
            told = class_logits(group, texts, backbone.logit_scale)
            repeated = target.repeat_interleave(len(group) // len(target), dim=0)
            parts[name] = logits_distance(told, repeated, temperature)
        parts["text_distance"] = feature_distance(unit(refined_texts), texts)
        parts["image_distance"] = feature_distance(unit(refined), features)
        return parts, projected, selected

    def total(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """K times the weighted sum of the terms."""
        settings = self.student.method.settings
        total: torch.Tensor = self.weight * (
            parts["divergence"]
            + settings.token_weight * parts["top7"]
            + settings.group_weight * (parts["top2"] + parts["low3"])
            + settings.text_weight * parts["text_distance"]
            + settings.image_weight * parts["image_distance"]
        )
        return total


class SpotlighterPromptKD(PromptKD):
    """PromptKD with Spotlighter: the row "Spotlighter" of the tables of both papers.

    It is distilled on the few-shot images, unlabelled: those of all classes (`transductive`, as
    published), or those of base classes.
    """

    name = "spotlighter_promptkd"
    label = "Spotlighter on PromptKD"
    citation = "Gao et al., EMNLP 2025"
    compares_texts = False
    split = "few-shot"
    Settings = SpotlighterPromptKDSettings

    def check_clip(self, clip: Any) -> None:
        check_tower(clip.visual)

    def given(self, task: Task) -> pl.Series:
        groups = ("base", "novel") if self.transductive else ("base",)
        return pl.concat([task.few_shot_rows(group=group)["sample_id"] for group in groups])

    def start(self, task: Task, texts: torch.Tensor) -> SpotlightedStudent:
        settings, backbone, seed = self.settings, task.backbone, task.seed
        image = image_prompts_start(backbone, settings.image_prompts, settings.image_depth, seed)
        widths = backbone.clip.visual.output_dim, texts.shape[1]
        vectors = dict(zip(task.dataset.class_names, texts.float().cpu(), strict=True))
        assert task.teacher is not None
        return SpotlightedStudent(
            self,
            backbone,
            image,
            projector_start(*widths, seed),
            projector_start(*widths, draw_seed("tokens", seed)),
            settings.memory(widths[1], seed),
            vectors,
            named(task.teacher),
        )

    def loss(
        self, task: Task, student: PromptedStudent, teacher: FrozenTeacher
    ) -> SpotlightedDistillation:
        assert isinstance(student, SpotlightedStudent)
        weight = self.weight(task.dataset.name)
        return SpotlightedDistillation(student, teacher, weight, task.seed)

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> SpotlightedStudent:
        teacher_width, width = tensors["projector.conv1.weight"].shape[:2]
        student = SpotlightedStudent(
            self,
            backbone,
            tensors["image"],
            Projector(width, teacher_width),
            Projector(width, teacher_width),
            self.settings.memory(teacher_width, 0),
            named_vectors(tensors, facts),
            str(facts.get("taught_by", "")),
        )
        student.load_state_dict(dict(tensors))
        return student
