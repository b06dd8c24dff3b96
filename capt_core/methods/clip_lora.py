"""CLIP-LoRA: low-rank updates of the attention of both towers.

Zanella and Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models", CVPR Workshops 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.learning.loop import Batch, Record
from capt_core.learning.optimisation import Descent, step_learning_rates
from capt_core.learning.randomness import draw_seed, generator
from capt_core.methods.attention import check_attention
from capt_core.methods.classes import Classes
from capt_core.methods.descriptions import (
    described_vectors,
    retained_prompts,
    retained_texts,
    training_texts,
)
from capt_core.methods.feature_training import minimise
from capt_core.methods.image_tower import ImageTower
from capt_core.methods.image_training import FewShotViews
from capt_core.methods.low_rank import LowRankAttention
from capt_core.methods.method import Fitted, Method, Need, named_vectors
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.text import text_tower
from capt_core.methods.retained_training import Retained, RetainedSettings
from capt_core.methods.retention import distillation_loss
from capt_core.methods.task import Task
from capt_core.methods.towers import TunedTowers, tower_blocks, with_parts
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import Section, packaged


class LowRankSettings(Descent):
    """Settings of low-rank updates and their training."""

    rank: int = packaged(ge=1, le=65_536)
    alpha: float = packaged(gt=0, le=1e6)
    dropout: float = packaged(ge=0, lt=1)
    iterations_per_shot: int = packaged(ge=1, le=100_000)
    minimum_learning_rate: float = packaged(ge=0, le=1000)


class ClipLoraSettings(LowRankSettings, path="methods.clip_lora"):
    """The section ``methods.clip_lora``."""


class ClipLoraPromptsSettings(LowRankSettings, RetainedSettings, path="methods.clip_lora_prompts"):
    """The section ``methods.clip_lora_prompts``."""


class LowRankClip(TunedTowers):
    """CLIP with low-rank updates of queries, keys and values in every block of both towers.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        seed: of the random starts.
    """

    def __init__(self, method: Method, backbone: Backbone, seed: int = 0) -> None:
        settings = method.settings
        updated: dict[str, LowRankAttention] = {}
        parts: dict[nn.Module, nn.Module] = {}
        for tower, blocks in tower_blocks(backbone.clip).items():
            for index, block in enumerate(blocks):
                name = f"{tower}_block{index}"
                parts[block.attn] = updated[name] = LowRankAttention(
                    block.attn,
                    settings.rank,
                    settings.alpha,
                    settings.dropout,
                    draw_seed(name, seed),
                )
        super().__init__(method, backbone, parts)
        self.attention = nn.ModuleDict(updated)

    def updated(self) -> dict[str, LowRankAttention]:
        """The attention of every block, by tower and number."""
        found = dict(self.attention.items())
        return {name: each for name, each in found.items() if isinstance(each, LowRankAttention)}

    def interpolate(self, share: float) -> None:
        """Scale every update: 1 leaves it, 0 would give the frozen towers."""
        for attention in self.updated().values():
            attention.interpolate(share)

    def image_tower(self) -> ImageTower:
        attention = self.updated().values()
        if any(each.key is not None for each in attention):
            return super().image_tower()
        merged: dict[nn.Module, nn.Module] = {each: each.merged() for each in attention}
        return ImageTower(with_parts(self.tuned.clip.visual, merged))

    @contextmanager
    def dropping(self, *purpose: str | int) -> Iterator[None]:
        """Within the block, leave out inputs of the updates, drawn for a purpose.

        Outside of it the updates are merged into the weights of the image tower, which another
        method can start from.
        """
        for name, attention in self.updated().items():
            attention.key = draw_seed(*purpose, name)
        try:
            yield
        finally:
            for attention in self.updated().values():
                attention.key = None

    def loss(
        self, images: torch.Tensor, labels: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy of images over classes.

        Args:
            images: [B, 3, S, S].
            labels: positions of their classes, [B].
            tokens: ids of the classes' texts, [C, L].
        """
        with self.backbone.precision():
            features, texts = unit(self.encode(images)), unit(self.encode_tokens(tokens))
        logits = class_logits(features, texts, self.backbone.logit_scale)
        return functional.cross_entropy(logits, labels)


class DescribedLowRankClip(LowRankClip):
    """The same with class prompts in the data set's templates, as CAPT has them."""

    def readable_prompts(self, classes: Classes) -> list[str]:
        return classes.prompts


class ClipLora(Method):
    """Low-rank updates of both towers, learned by cross-entropy over the trained classes."""

    name = "clip_lora"
    label = "CLIP-LoRA"
    citation = "Zanella and Ben Ayed, CVPRW 2024"
    needs = frozenset({Need.PIXELS})
    Settings: ClassVar[type[Section]] = ClipLoraSettings

    def check_clip(self, clip: Any) -> None:
        towers = {"text": text_tower(clip), "vision": clip.visual}
        for name, blocks in tower_blocks(clip).items():
            check_attention(blocks, towers[name], "a low-rank update")

    def rates(self, task: Task) -> list[float]:
        """The learning rate of every optimiser step."""
        settings, images = self.settings, task.images_per_class()
        steps = settings.iterations_per_shot * images
        return step_learning_rates(settings.learning_rate, steps, settings.minimum_learning_rate)

    def fit(self, task: Task) -> LowRankClip:
        backbone, views = task.backbone, FewShotViews.of(self, task)
        fitted = LowRankClip(self, backbone, task.seed).to(backbone.device)
        names = [task.dataset.prompt_names[class_id] for class_id in task.trained_classes]
        tokens = fitted.tokens(names)

        def loss_of(batch: Batch) -> tuple[torch.Tensor, Record]:
            with fitted.dropping("low rank", task.seed, batch.step, batch.number):
                return fitted.loss(*views(batch), tokens), {}

        parameters, stages = list(fitted.parameters()), [self.rates(task)]
        return minimise(self, task, fitted, parameters, len(views.ids), loss_of, stages=stages)

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> LowRankClip:
        fitted = LowRankClip(self, backbone)
        fitted.load_state_dict(dict(tensors))
        return fitted


class ClipLoraPrompts(Retained, ClipLora):
    """`ClipLora` with CAPT's class texts, retention and interpolation.

    The text tower is tuned, too: class prompts and the names of retention go through it, written
    difference prompts are added as the frozen one encodes them. Of the names, as many as a batch
    has images are drawn for each step. What is kept of an update of a weight is a share of it.
    """

    name = "clip_lora_prompts"
    label = "CLIP-LoRA on difference prompts, with retention"
    needs = frozenset({Need.PIXELS, Need.DESCRIPTIONS})
    Settings = ClipLoraPromptsSettings

    def fit(self, task: Task) -> LowRankClip:
        settings, backbone, views = self.settings, task.backbone, FewShotViews.of(self, task)
        device, scale = backbone.device, backbone.logit_scale
        fitted = DescribedLowRankClip(self, backbone, task.seed).to(device)
        classes = Classes.of(task.dataset)
        plain = Fitted(self, backbone).class_texts(classes)
        described = training_texts(task, settings.difference_weight)
        retained = retained_texts(task, plain, settings.retention_names).to(device)
        tokens, words = (
            backbone.tokenizer(texts).to(device)
            for texts in (
                classes.only(task.trained_classes).prompts,
                retained_prompts(task, settings.retention_names),
            )
        )

        def loss_of(batch: Batch) -> tuple[torch.Tensor, Record]:
            images, labels = views(batch)
            at_step = task.seed, batch.step, batch.number
            drawn = torch.randperm(len(words), generator=generator("retained", *at_step))
            drawn = drawn[: settings.batch_size].to(device)
            with backbone.precision():
                with fitted.dropping("low rank", *at_step):
                    moved = unit(fitted.encode(images))
                    texts = unit(fitted.encode_tokens(torch.cat([tokens, words[drawn]])))
                with torch.no_grad():
                    frozen = unit(backbone.clip.encode_image(images))
            logits = class_logits(moved, described(texts[: len(tokens)]), scale)
            original = functional.cross_entropy(logits, labels)
            kept = distillation_loss(moved, frozen, retained[drawn], scale, texts[len(tokens) :])
            parts = {"original_loss": original.item(), "retention_loss": kept.item()}
            return original + settings.retention_weight * kept, parts

        given = {"texts": described(plain[task.trained_classes]), "retained": retained}
        parameters, stages = list(fitted.parameters()), [self.rates(task)]
        count = len(views.ids)
        minimise(self, task, fitted, parameters, count, loss_of, given, stages=stages)
        fitted.interpolate(settings.interpolation)
        weight, describe = settings.difference_weight, settings.describe
        with torch.no_grad():
            vectors = described_vectors(task, fitted, weight, describe)
        if vectors:
            fitted.keep_vectors(vectors)
        return fitted

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> LowRankClip:
        fitted = DescribedLowRankClip(self, backbone)
        if vectors := named_vectors(tensors, facts):
            fitted.keep_vectors(vectors)
        fitted.load_state_dict(dict(tensors))
        return fitted
