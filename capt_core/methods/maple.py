"""MaPLe: prompts of the image tower are projections of those of the text tower.

Khattak et al., "MaPLe: Multi-modal Prompt Learning", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.learning.loop import Record
from capt_core.learning.randomness import draw_seed
from capt_core.methods.image_training import ImageLoss, train_on_images
from capt_core.methods.method import Method
from capt_core.methods.prompting.fitted import (
    PromptedClip,
    PromptMethod,
    PromptSettings,
)
from capt_core.methods.prompting.start import context_start, random_prompts
from capt_core.methods.prompting.text import text_blocks
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged


class MapleSettings(PromptSettings, path="methods.maple"):
    """The section ``methods.maple``."""

    depth: int = packaged(ge=1, le=1000)


class CoupledPrompts(PromptedClip):
    """CLIP with text prompts P_j and image prompts F_j(P_j), F_j linear (the coupling functions).

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        prompts: P, [J, n, W], by depth; the first is the context.
        weights: of F, [J, D, W].
        biases: of F, [J, D].
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        prompts: torch.Tensor,
        weights: torch.Tensor,
        biases: torch.Tensor,
    ) -> None:
        super().__init__(method, backbone)
        self.prompts = nn.Parameter(prompts)
        self.coupling_weights = nn.Parameter(weights)
        self.coupling_biases = nn.Parameter(biases)

    def text_prompts(self) -> torch.Tensor:
        return self.prompts

    def image_prompts(self) -> list[torch.Tensor]:
        # Without autocast: a method that starts here gets the very same prompts.
        with torch.autocast(self.prompts.device.type, enabled=False):
            parts = zip(self.prompts, self.coupling_weights, self.coupling_biases, strict=True)
            return [functional.linear(prompt, weight, bias) for prompt, weight, bias in parts]


def coupling_start(
    depth: int, text_width: int, image_width: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [J, D, W] and biases [J, D] before the first step: all deep ones are alike."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draw_seed("maple", seed))
        shallow, deep = nn.Linear(text_width, image_width), nn.Linear(text_width, image_width)
    layers = [shallow, *[deep] * (depth - 1)]
    weights = torch.stack([layer.weight.detach() for layer in layers])
    return weights, torch.stack([layer.bias.detach() for layer in layers])


def cross_entropy(fitted: PromptedClip, tokens: torch.Tensor) -> ImageLoss:
    """Cross-entropy of images over classes with the token ids [C, L]."""

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, Record]:
        features, texts = fitted.compared(images, tokens)
        logits = class_logits(features, texts, fitted.backbone.logit_scale)
        return functional.cross_entropy(logits, labels), {}

    return loss_of


class Maple(PromptMethod):
    """Coupled prompts of both towers, learned by cross-entropy over the trained classes."""

    name = "maple"
    label = "MaPLe"
    citation = "Khattak et al., CVPR 2023"
    Settings = MapleSettings

    def start(self, backbone: Backbone, seed: int) -> CoupledPrompts:
        """The prompts before the first step.

        Raises:
            CaptError: fewer words than vectors.
        """
        settings, clip = self.settings, backbone.clip
        context = context_start(settings.context_init, settings.context_length, backbone, seed)
        blocks = text_blocks(clip), clip.visual.transformer.resblocks
        depth = min(settings.depth, *map(len, blocks))
        deep = random_prompts((depth - 1, *context.shape), "deep text prompts", seed)
        widths = (context.shape[1], clip.visual.class_embedding.shape[0])
        weights, biases = coupling_start(depth, *widths, seed)
        return CoupledPrompts(self, backbone, torch.cat([context[None], deep]), weights, biases)

    def fit(self, task: Task) -> CoupledPrompts:
        fitted = self.start(task.backbone, task.seed).to(task.backbone.device)
        names = [task.dataset.prompt_names[class_id] for class_id in task.trained_classes]
        loss_of = cross_entropy(fitted, fitted.tokens(names))
        return train_on_images(self, task, fitted, list(fitted.parameters()), loss_of)

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> CoupledPrompts:
        names = ("prompts", "coupling_weights", "coupling_biases")
        return CoupledPrompts(self, backbone, *(tensors[name] for name in names))
