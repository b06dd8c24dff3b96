"""PromptSRC: prompts in both towers, held to the frozen CLIP and averaged over the epochs.

Khattak et al., "Self-regulating Prompts: Foundational Model Adaptation without Forgetting",
ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.learning.averaging import StateAverage, gaussian_weights
from capt_core.learning.loop import Record
from capt_core.methods.image_training import train_on_images
from capt_core.methods.method import Method
from capt_core.methods.prompting.fitted import (
    PromptedClip,
    PromptMethod,
    PromptSettings,
    unit,
)
from capt_core.methods.prompting.start import (
    context_start,
    image_prompts_start,
    random_prompts,
)
from capt_core.methods.prompting.text import text_blocks
from capt_core.methods.prompting.zero_shot_reference import (
    feature_distance,
    prediction_distance,
    reference_templates,
    text_reference,
)
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged


class PromptSRCSettings(PromptSettings, path="methods.promptsrc"):
    """The section ``methods.promptsrc``."""

    image_prompts: int = packaged(ge=1, le=1000)
    text_depth: int = packaged(ge=1, le=1000)
    image_depth: int = packaged(ge=1, le=1000)
    text_weight: float = packaged(ge=0, le=1e6)
    image_weight: float = packaged(ge=0, le=1e6)
    templates: int = packaged(ge=1, le=60)
    gaussian_mean: float = packaged(ge=-100_000, le=100_000)
    gaussian_deviation: float = packaged(ge=0.01, le=100_000)


class IndependentPrompts(PromptedClip):
    """CLIP with prompts of their own in the text tower and in the image tower (IVLP).

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        text: [J_t, n, W], by depth; the first is the context.
        image: [J_v, P, D], by depth.
    """

    def __init__(
        self, method: Method, backbone: Backbone, text: torch.Tensor, image: torch.Tensor
    ) -> None:
        super().__init__(method, backbone)
        self.text = nn.Parameter(text)
        self.image = nn.Parameter(image)

    def text_prompts(self) -> torch.Tensor:
        return self.text

    def image_prompts(self) -> torch.Tensor:
        return self.image


@dataclass(frozen=True)
class SelfRegulatedLoss:
    """Cross-entropy and three terms that hold the prompts to the frozen CLIP.

    Attributes:
        fitted: the prompts.
        tokens: ids of the trained classes' texts, [C, L].
        reference: frozen text features of the same classes, [C, d], of any length.
    """

    fitted: PromptedClip
    tokens: torch.Tensor
    reference: torch.Tensor

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, Record]:
        """Their sum for images [B, 3, S, S] and positions of their classes [B]."""
        parts = self.parts(images, labels)
        record = {f"{name}_loss": part.item() for name, part in parts.items()}
        return torch.stack(list(parts.values())).sum(), record

    def parts(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each term as it enters the sum."""
        backbone, settings = self.fitted.backbone, self.fitted.method.settings
        features, texts = self.fitted.compared(images, self.tokens)
        with torch.no_grad(), backbone.precision():
            frozen = unit(backbone.clip.encode_image(images))
        frozen_texts, scale = unit(self.reference), backbone.logit_scale
        logits = class_logits(features, texts, scale)
        return {
            "cross_entropy": functional.cross_entropy(logits, labels),
            "text": settings.text_weight * feature_distance(texts, frozen_texts),
            "image": settings.image_weight * feature_distance(features, frozen),
            "logits": prediction_distance(features, texts, frozen, frozen_texts, scale),
        }


class PromptSRC(PromptMethod):
    """Independent prompts of both towers, held to the frozen CLIP's features and predictions.

    What is kept is the average of the prompts after each epoch by Gaussian weights; it is taken
    over the prompts alone, the rest being frozen.
    """

    name = "promptsrc"
    label = "PromptSRC"
    citation = "Khattak et al., ICCV 2023"
    Settings = PromptSRCSettings

    def start(self, backbone: Backbone, seed: int) -> IndependentPrompts:
        """The prompts before the first step.

        Raises:
            CaptError: fewer words than vectors.
        """
        settings = self.settings
        context = context_start(settings.context_init, settings.context_length, backbone, seed)
        depth = min(settings.text_depth, len(text_blocks(backbone.clip)))
        deep = random_prompts((depth - 1, *context.shape), "deep text prompts", seed)
        image = image_prompts_start(backbone, settings.image_prompts, settings.image_depth, seed)
        return IndependentPrompts(self, backbone, torch.cat([context[None], deep]), image)

    def average_of(self, fitted: IndependentPrompts) -> StateAverage:
        """The prompts with their Gaussian-weighted sum over the epochs."""
        settings = self.settings
        weights = gaussian_weights(
            settings.epochs, settings.gaussian_mean, settings.gaussian_deviation
        )
        return StateAverage(fitted, weights)

    def fit(self, task: Task) -> IndependentPrompts:
        backbone = task.backbone
        fitted = self.start(backbone, task.seed)
        average = self.average_of(fitted).to(backbone.device)
        names = [task.dataset.prompt_names[class_id] for class_id in task.trained_classes]
        templates = reference_templates()[: self.settings.templates]
        loss_of = SelfRegulatedLoss(
            fitted, fitted.tokens(names), text_reference(names, templates, backbone)
        )
        train_on_images(
            self,
            task,
            fitted,
            list(fitted.parameters()),
            loss_of,
            state=average,
            after_epoch=average.add,
        )
        average.cpu().load()
        return fitted

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> IndependentPrompts:
        return IndependentPrompts(self, backbone, tensors["text"], tensors["image"])
