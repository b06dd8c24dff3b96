"""LwEIB's place among the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from capt_core.backbone.encoding import check_lengths
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.learning.loop import Batch, Record
from capt_core.learning.optimisation import Optimisation
from capt_core.learning.randomness import draw_seed
from capt_core.methods.data_facts import DataFacts
from capt_core.methods.descriptions import described_groups, phrases_by_class
from capt_core.methods.feature_training import minimise
from capt_core.methods.image_training import FewShotViews
from capt_core.methods.lweib.convolutions import KERNEL
from capt_core.methods.lweib.model import EnrichedClip, convolution_names
from capt_core.methods.lweib.sampling import SampledClassesLoss
from capt_core.methods.method import Fitted, Method, Need, named_vectors, undescribed
from capt_core.methods.task import Task
from capt_core.methods.towers import TEMPLATE, tower_blocks
from capt_core.settings_file import packaged


class LwEIBSettings(Optimisation, path="methods.lweib"):
    """The section ``methods.lweib``."""

    scale: float = packaged(gt=0, le=1000)
    fast_factor: float = packaged(gt=0, le=1000)
    fast_share: float = packaged(ge=0, le=1)
    negative_ratio: int = packaged(ge=-1, le=100_000)
    sentences: int = packaged(ge=1, le=1000)


def drawn_weights(width: int, kernel: Sequence[int], seed: int) -> torch.Tensor:
    """Weights [W, 1, *kernel] of a depth-wise convolution as PyTorch starts with them."""
    convolution = nn.Conv2d if len(kernel) > 1 else nn.Conv1d
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return convolution(width, width, KERNEL, groups=width, bias=False).weight.detach()


def sentence_tokens(task: Task, most: int) -> dict[str, torch.Tensor]:
    """Token ids [S, L] of what is said about each class, by class name, on the backbone's device.

    ``a photo of a NAME, SENTENCE``; what is too long loses its last words. A class that nothing is
    written about, which may be a novel one, has the text `TEMPLATE`.

    Args:
        task: with the table `class_descriptions`.
        most: sentences of a class that are taken at most.

    Raises:
        CaptError: a class name is too long for the backbone.
    """
    dataset, backbone = task.dataset, task.backbone
    written = phrases_by_class(task)
    found = {}
    for name, prompt_name in zip(dataset.class_names, dataset.prompt_names, strict=True):
        texts = [f"a photo of a {prompt_name}, {said}" for said in written.get(name, [])[:most]]
        texts = [fitting(text, backbone) for text in texts] or [TEMPLATE.format(prompt_name)]
        check_lengths(texts, backbone)
        found[name] = backbone.tokenizer(texts).to(backbone.device)
    return found


def fitting(text: str, backbone: Backbone) -> str:
    """A text without the last words that are too many for the backbone."""
    while text.strip() and backbone.tokenizer.token_count(text) > backbone.tokenizer.context_length:
        text = text.rstrip().rpartition(" ")[0]
    return text


class LwEIB(Method):
    """Depth-wise convolutions of both towers, trained on written sentences about the classes."""

    name = "lweib"
    label = "LwEIB"
    citation = "Yang et al., IJCV 2025"
    needs = frozenset({Need.PIXELS, Need.CLASS_DESCRIPTIONS})
    Settings = LwEIBSettings

    def check_clip(self, clip: Any) -> None:
        tower_blocks(clip)

    def check_data(self, data: DataFacts) -> None:
        super().check_data(data)
        if data.sentences is not None and not data.sentences:
            raise CaptError(undescribed(self.name, data.dataset, "sentences about single classes"))

    def start(self, backbone: Backbone, seed: int) -> EnrichedClip:
        """The convolutions before the first step, drawn as PyTorch draws a convolution's."""
        weights = {}
        for tower, blocks in tower_blocks(backbone.clip).items():
            kernel = (KERNEL,) * (2 if tower == "vision" else 1)
            for index, block in enumerate(blocks):
                widths = block.ln_1.normalized_shape[0], block.mlp.c_fc.out_features
                for name, width in zip(convolution_names(tower, index), widths, strict=True):
                    weights[name] = drawn_weights(width, kernel, draw_seed(name, seed))
        return EnrichedClip(self, backbone, weights)

    def fit(self, task: Task) -> EnrichedClip:
        fitted, views = self.start(task.backbone, task.seed), FewShotViews.of(self, task)
        fitted.to(task.backbone.device)
        every = sentence_tokens(task, self.settings.sentences)
        names = task.dataset.class_names
        tokens = [every[names[class_id]] for class_id in task.trained_classes]
        loss_of = SampledClassesLoss(fitted, tokens)

        def loss_of_batch(batch: Batch) -> tuple[torch.Tensor, Record]:
            images, labels = views(batch)
            drawn = loss_of.draws(labels, task.seed, batch.step, batch.number)
            return loss_of(images, labels, drawn)

        compared = {str(index): rows.cpu() for index, rows in enumerate(tokens)}
        parameters, count = list(fitted.parameters()), len(views.ids)
        minimise(self, task, fitted, parameters, count, loss_of_batch, compared=compared)
        with torch.no_grad():
            classifier = fitted.classifier(list(every.values())).float().cpu()
        fitted.keep_vectors(dict(zip(every, classifier, strict=True)))
        return fitted

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> EnrichedClip:
        weights = {
            name: tensors[f"convolutions.{name}.weight"]
            for tower, blocks in tower_blocks(backbone.clip).items()
            for block in range(len(blocks))
            for name in convolution_names(tower, block)
        }
        return EnrichedClip(self, backbone, weights, named_vectors(tensors, facts))

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        described = phrases_by_class(task)
        return [*super().sees(task, fitted), *described_groups(task, described, "descriptions")]
