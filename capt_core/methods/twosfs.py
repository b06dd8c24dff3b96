"""2SFS: layer norms of both towers first, then a classifier on what they give.

Farina et al., "Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages", CVPR 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.learning.loop import Record
from capt_core.learning.optimisation import Descent, step_learning_rates
from capt_core.methods.feature_training import minimise
from capt_core.methods.image_training import FewShotViews
from capt_core.methods.method import Method, Need, named_vectors
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.task import Task
from capt_core.methods.towers import TunedTowers, tower_blocks
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged

Tower = Literal["text", "vision"]


class TwoStageSettings(Descent, path="methods.twosfs"):
    """The section ``methods.twosfs``."""

    iterations_per_shot: int = packaged(ge=1, le=100_000)
    first_stage: float = packaged(ge=0, le=1)
    minimum_learning_rate: float = packaged(ge=0, le=1000)


class TunedNorm(nn.Module):
    """A layer norm whose weight and bias are trained.

    Args:
        norm: that it starts from.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().clone())
        self.bias = nn.Parameter(norm.bias.detach().clone())
        self.eps = norm.eps

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [..., W] to normalised ones of the same shape and type."""
        weight, bias = self.weight.to(tokens.device), self.bias.to(tokens.device)
        return functional.layer_norm(tokens, weight.shape, weight, bias, self.eps).to(tokens.dtype)


class NormTunedClip(TunedTowers):
    """CLIP with layer norms of its own in every block of both towers; those outside are frozen.

    Classes that were trained are compared with their row of the classifier, others with the tuned
    text tower's feature of `TEMPLATE` (selective inference).

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        class_vectors: rows of the classifier by class name, unit length, each [d].
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        class_vectors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        norms: dict[str, TunedNorm] = {}
        parts: dict[nn.Module, nn.Module] = {}
        for tower, blocks in tower_blocks(backbone.clip).items():
            for index, block in enumerate(blocks):
                for place in ("ln_1", "ln_2"):
                    norm = getattr(block, place)
                    parts[norm] = norms[f"{tower}_block{index}_{place}"] = TunedNorm(norm)
        super().__init__(method, backbone, parts, class_vectors)
        self.norms = nn.ModuleDict(norms)


class TwoStageTraining(nn.Module):
    """What both stages train, and their loss: a checkpoint holds its state.

    Args:
        fitted: the layer norms, trained in the first stage.
        tokens: ids of the trained classes' texts, [C, L].
        first_steps: optimiser steps of the first stage.
    """

    def __init__(self, fitted: NormTunedClip, tokens: torch.Tensor, first_steps: int) -> None:
        super().__init__()
        self.fitted, self.tokens, self.first_steps = fitted, tokens, first_steps
        dtype = next(fitted.parameters()).dtype
        width = fitted.backbone.clip.visual.output_dim
        self.classifier = nn.Parameter(torch.zeros(len(tokens), width, dtype=dtype))

    def texts(self) -> torch.Tensor:
        """Unit-length features [C, d] of the trained classes' texts as the tower is now."""
        with self.fitted.backbone.precision():
            return unit(self.fitted.encode_tokens(self.tokens))

    @torch.no_grad()
    def begin_second_stage(self) -> None:
        """Start the classifier from the text features of the tuned tower."""
        self.classifier.copy_(self.texts())

    def logits(self, images: torch.Tensor, step: int) -> torch.Tensor:
        """Logits [B, C] of images [B, 3, S, S] at an optimiser step, counted from 1.

        Gradients reach the layer norms in the first stage, and then the classifier alone.
        """
        first, backbone = step <= self.first_steps, self.fitted.backbone
        with torch.set_grad_enabled(first and torch.is_grad_enabled()), backbone.precision():
            features = unit(self.fitted.encode(images))
        if step == self.first_steps + 1:
            self.begin_second_stage()
        rows = self.texts() if first else functional.normalize(self.classifier, dim=-1)
        return class_logits(features, rows, backbone.logit_scale)

    def loss(
        self, images: torch.Tensor, labels: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, Record]:
        """Cross-entropy of images with positions among the trained classes [B]."""
        return functional.cross_entropy(self.logits(images, step), labels), {}


def stage_rates(settings: TwoStageSettings, steps: int) -> list[list[float]]:
    """Learning rates of the optimiser steps of each stage, each a cosine of its own."""
    first = int(settings.first_stage * steps)
    base, least = settings.learning_rate, settings.minimum_learning_rate
    return [step_learning_rates(base, count, least) for count in (first, steps - first)]


class TwoStage(Method):
    """Layer norms by cross-entropy with the class texts, then a classifier that starts from them.

    Optimiser and learning rate start anew in the second stage: what is trained there has no
    gradient before, and so no state in the optimiser.
    """

    name = "twosfs"
    label = "2SFS"
    citation = "Farina et al., CVPR 2025"
    needs = frozenset({Need.PIXELS})
    Settings = TwoStageSettings

    def check_clip(self, clip: Any) -> None:
        tower_blocks(clip)

    def fit(self, task: Task) -> NormTunedClip:
        backbone, views = task.backbone, FewShotViews.of(self, task)
        classes, steps = task.trained_classes, self.settings.iterations_per_shot
        rates = stage_rates(self.settings, steps * task.images_per_class())
        fitted = NormTunedClip(self, backbone)
        tokens = fitted.tokens([task.dataset.prompt_names[class_id] for class_id in classes])
        training = TwoStageTraining(fitted, tokens, len(rates[0])).to(backbone.device)
        minimise(
            self,
            task,
            fitted,
            list(training.parameters()),
            len(views.ids),
            lambda batch: training.loss(*views(batch), batch.step),
            state=training,
            stages=rates,
        )
        if rates[1]:
            rows = functional.normalize(training.classifier.detach(), dim=-1).cpu()
            names = [task.dataset.class_names[class_id] for class_id in classes]
            fitted.keep_vectors(dict(zip(names, rows, strict=True)))
        return fitted

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> NormTunedClip:
        fitted = NormTunedClip(self, backbone, named_vectors(tensors, facts))
        fitted.load_state_dict(dict(tensors))
        return fitted
