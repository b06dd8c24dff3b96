"""CLIP-LoRA: low-rank updates of the attention of both towers.

Zanella and Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models", CVPR Workshops 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.learning.loop import Batch, Record
from capt_core.learning.optimisation import Descent, step_learning_rates
from capt_core.learning.randomness import draw_seed
from capt_core.methods.attention import check_attention
from capt_core.methods.feature_training import minimise
from capt_core.methods.image_tower import ImageTower
from capt_core.methods.image_training import FewShotViews
from capt_core.methods.low_rank import LowRankAttention
from capt_core.methods.method import Method, Need
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.text import text_tower
from capt_core.methods.task import Task
from capt_core.methods.towers import TunedTowers, tower_blocks, with_parts
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged


class ClipLoraSettings(Descent, path="methods.clip_lora"):
    """The section ``methods.clip_lora``."""

    rank: int = packaged(ge=1, le=65_536)
    alpha: float = packaged(gt=0, le=1e6)
    dropout: float = packaged(ge=0, lt=1)
    iterations_per_shot: int = packaged(ge=1, le=100_000)
    minimum_learning_rate: float = packaged(ge=0, le=1000)


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


class ClipLora(Method):
    """Low-rank updates of both towers, learned by cross-entropy over the trained classes."""

    name = "clip_lora"
    label = "CLIP-LoRA"
    citation = "Zanella and Ben Ayed, CVPRW 2024"
    needs = frozenset({Need.PIXELS})
    Settings = ClipLoraSettings

    def check_clip(self, clip: Any) -> None:
        towers = {"text": text_tower(clip), "vision": clip.visual}
        for name, blocks in tower_blocks(clip).items():
            check_attention(blocks, towers[name], "a low-rank update")

    def fit(self, task: Task) -> LowRankClip:
        settings, backbone, views = self.settings, task.backbone, FewShotViews.of(self, task)
        fitted = LowRankClip(self, backbone, task.seed).to(backbone.device)
        names = [task.dataset.prompt_names[class_id] for class_id in task.trained_classes]
        tokens = fitted.tokens(names)
        steps = settings.iterations_per_shot * task.images_per_class()
        rates = step_learning_rates(settings.learning_rate, steps, settings.minimum_learning_rate)

        def loss_of(batch: Batch) -> tuple[torch.Tensor, Record]:
            with fitted.dropping("low rank", task.seed, batch.step, batch.number):
                return fitted.loss(*views(batch), tokens), {}

        parameters = list(fitted.parameters())
        return minimise(self, task, fitted, parameters, len(views.ids), loss_of, stages=[rates])

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> LowRankClip:
        fitted = LowRankClip(self, backbone)
        fitted.load_state_dict(dict(tensors))
        return fitted
