"""The loss of TAC, and its place among the methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.encoding import check_lengths, encode_images
from capt_core.backbone.loading import Backbone
from capt_core.data.images import image_batches, square_transform
from capt_core.errors import CaptError
from capt_core.learning.averaging import StateAverage, uniform_weights
from capt_core.learning.loop import Batch, Record
from capt_core.learning.randomness import generator
from capt_core.methods.classes import Classes
from capt_core.methods.data_facts import DataFacts
from capt_core.methods.descriptions import described_groups, sentences_by_class
from capt_core.methods.feature_training import minimise
from capt_core.methods.image_training import FewShotViews
from capt_core.methods.method import Need, undescribed
from capt_core.methods.prompting.fitted import PromptMethod, PromptSettings, unit
from capt_core.methods.prompting.start import (
    embedded_words,
    image_prompts_start,
    random_prompts,
)
from capt_core.methods.prompting.text import text_blocks, token_embedding
from capt_core.methods.prompting.zero_shot_reference import feature_distance
from capt_core.methods.tac.centres import task_centres, text_knowledge
from capt_core.methods.tac.prompts import TaskAwarePrompts
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged


class TacSettings(PromptSettings, path="methods.tac"):
    """The section ``methods.tac``."""

    centres: int = packaged(ge=1, le=1000)
    image_prompts: int = packaged(ge=1, le=1000)
    text_weight: float = packaged(ge=0, le=1e6)
    image_weight: float = packaged(ge=0, le=1e6)
    views: int = packaged(ge=1, le=1000)
    smallest_crop: float = packaged(gt=0, le=1)
    dropout: float = packaged(ge=0, lt=1)


@dataclass(frozen=True)
class Views:
    """What a step looks at.

    Attributes:
        pixels: augmented views, the first of all B images, then the second, [K B, 3, S, S].
        labels: positions of the images' classes, [B].
        frozen: features of the images, not augmented, as the frozen CLIP encodes them, [B, d].
        kept: entries of the views' features that dropout keeps, [K B, d]; None keeps all.
        kept_frozen: likewise of `frozen`, [B, d].
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    frozen: torch.Tensor
    kept: torch.Tensor | None = None
    kept_frozen: torch.Tensor | None = None


def dropped(features: torch.Tensor, kept: torch.Tensor | None, rate: float) -> torch.Tensor:
    """Features [B, d], before they are normalised, with those entries alone that dropout keeps."""
    return features if kept is None else features * kept.to(features) / (1 - rate)


@dataclass(frozen=True)
class TaskAwareLoss:
    """Cross-entropy over all views, and two terms that hold the prompts to the frozen CLIP.

    Attributes:
        fitted: what is trained.
        tokens: ids of the trained classes' texts, with room for the prompts, [C, L].
        knowledge: `text_knowledge` of the same classes, [C, d].
    """

    fitted: TaskAwarePrompts
    tokens: torch.Tensor
    knowledge: torch.Tensor

    def __call__(self, views: Views) -> tuple[torch.Tensor, Record]:
        """Their sum for the views of a batch."""
        parts = self.parts(views)
        record = {f"{name}_loss": part.item() for name, part in parts.items()}
        return torch.stack(list(parts.values())).sum(), record

    def features(self, views: Views) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the views and of the frozen CLIP, [K B, d], and class texts [C, d], unit length."""
        fitted, rate = self.fitted, self.fitted.method.settings.dropout
        with fitted.backbone.precision():
            images, texts = fitted.encode(views.pixels), fitted.encode_tokens(self.tokens)
        frozen = unit(dropped(views.frozen, views.kept_frozen, rate))
        repeats = len(images) // len(frozen)
        return unit(dropped(images, views.kept, rate)), frozen.repeat(repeats, 1), unit(texts)

    def parts(self, views: Views) -> dict[str, torch.Tensor]:
        """Each term as it enters the sum."""
        settings = self.fitted.method.settings
        images, frozen, texts = self.features(views)
        logits = class_logits(images, texts, self.fitted.backbone.logit_scale)
        labels = views.labels.repeat(len(images) // len(views.labels))
        return {
            "cross_entropy": functional.cross_entropy(logits, labels),
            "text": settings.text_weight * feature_distance(texts, self.knowledge),
            "image": settings.image_weight * feature_distance(images, frozen),
        }


class TAC(PromptMethod):
    """Prompts of both towers beside K centres of what is written about the trained classes.

    What is kept is the mean of all that is trained after each epoch. A trained class that nothing
    is written about counts with its text in the method's words.
    """

    name = "tac"
    label = "TAC"
    citation = "Hao et al., CVPR 2025"
    needs = frozenset({Need.PIXELS, Need.CLASS_DESCRIPTIONS})
    Settings = TacSettings

    def check_data(self, data: DataFacts) -> None:
        super().check_data(data)
        centres = self.settings.centres
        if len(data.base) < centres:
            raise CaptError(
                f"{self.name} needs {centres} trained classes for its {centres} centres, "
                f"{data.dataset} has {len(data.base)}; set methods.tac.centres={len(data.base)} "
                "or less, or choose another method"
            )
        known = data.sentences
        if known is not None and not any(name in known for name in data.base):
            raise CaptError(undescribed(self.name, data.dataset, "sentences about its classes"))

    def start(self, backbone: Backbone, centres: torch.Tensor, seed: int) -> TaskAwarePrompts:
        """The prompts and the two layers before the first step.

        Args:
            backbone: frozen.
            centres: [K, d], unit length.
            seed: of what is drawn.
        """
        settings = self.settings
        length, words = settings.context_length, settings.context_init
        depth = len(text_blocks(backbone.clip))
        if words is None:
            width = token_embedding(backbone.clip).embedding_dim
            context = random_prompts((length, width), "context", seed)
        else:
            # Beyond the words stand the end token and padding, as in the original.
            tokens = backbone.tokenizer([words])[0].to(backbone.device)
            context = embedded_words(tokens, length, backbone.clip).float().cpu()
        deep = random_prompts((depth - 1, *context.shape), "deep text prompts", seed)
        blocks = len(backbone.clip.visual.transformer.resblocks)
        image = image_prompts_start(backbone, settings.image_prompts, blocks, seed)
        text = torch.cat([context[None], deep])
        fitted = TaskAwarePrompts(self, backbone, text, image, centres.cpu())
        for layer, purpose in ((fitted.to_text, "to text"), (fitted.to_image, "to image")):
            draw_linear(layer, generator(purpose, seed))
        return fitted

    def average_of(self, fitted: TaskAwarePrompts) -> StateAverage:
        """All that is trained with its mean over the epochs."""
        return StateAverage(fitted, uniform_weights(self.settings.epochs))

    def knowledge(self, task: Task) -> torch.Tensor:
        """`text_knowledge` of the trained classes, [C, d], on the backbone's device.

        Raises:
            CaptError: a description is too long for the backbone.
        """
        backbone, written = task.backbone, sentences_by_class(task)
        classes = Classes.of(task.dataset).only(task.trained_classes)
        described = sum(name in written for name in classes.names)
        task.reporter.say(f"{described} of {len(classes.names)} base classes described")
        pairs = zip(classes.names, classes.prompts, strict=True)
        sentences = [written.get(name, [prompt]) for name, prompt in pairs]
        texts = [text for own in sentences for text in own]
        check_lengths(texts, backbone)
        owners = [owner for owner, own in enumerate(sentences) for _ in own]
        with torch.no_grad(), backbone.precision():
            return text_knowledge(
                backbone.clip,
                backbone.tokenizer(texts).to(backbone.device),
                torch.tensor(owners, device=backbone.device),
            )

    def fit(self, task: Task) -> TaskAwarePrompts:
        settings, backbone = self.settings, task.backbone
        images = FewShotViews.of(self, task, settings.smallest_crop)
        knowledge = self.knowledge(task)
        rows = torch.randperm(len(knowledge), generator=generator("centres", task.seed))
        chosen = rows[: settings.centres].sort().values.to(knowledge.device)
        centres = unit(task_centres(knowledge, knowledge[chosen])[0])
        fitted = self.start(backbone, centres, task.seed)
        average = self.average_of(fitted).to(backbone.device)
        names = [task.dataset.prompt_names[class_id] for class_id in task.trained_classes]
        loss_of = TaskAwareLoss(fitted, fitted.tokens(names), knowledge)
        squares = image_batches(
            images.files, square_transform(backbone.preprocess), 256, task.workers
        )
        frozen = encode_images(squares, backbone)

        def loss_of_batch(batch: Batch) -> tuple[torch.Tensor, Record]:
            views = [images.images(batch, number=view) for view in range(settings.views)]
            before, shape = frozen[batch.samples].to(backbone.device), len(batch.samples)
            draws = generator("dropout", task.seed, batch.step, batch.number)
            kept = (
                torch.rand(rows * shape, before.shape[1], generator=draws) >= settings.dropout
                for rows in (settings.views, 1)
            )
            labels = images.labels[batch.samples].to(backbone.device)
            return loss_of(Views(torch.cat(views), labels, before, *kept))

        minimise(
            self,
            task,
            fitted,
            list(fitted.parameters()),
            len(images.ids),
            loss_of_batch,
            compared={"knowledge": knowledge.cpu()},
            state=average,
            after_epoch=average.add,
        )
        average.cpu().load()
        return fitted

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> TaskAwarePrompts:
        text, image, centres = (tensors[name] for name in ("text", "image", "centres"))
        found = TaskAwarePrompts(self, backbone, text, image, centres)
        found.load_state_dict(dict(tensors))
        return found

    def sees(self, task: Task, fitted: Any) -> list[str]:
        names = {task.dataset.class_names[class_id] for class_id in task.trained_classes}
        written = names & sentences_by_class(task).keys()
        return [*super().sees(task, fitted), *described_groups(task, written, "descriptions")]


def draw_linear(layer: nn.Linear, draws: torch.Generator) -> None:
    """PyTorch's default start of a linear layer, U(-1/sqrt(d), 1/sqrt(d)), by a generator."""
    bound = layer.in_features**-0.5
    for parameter in (layer.weight, layer.bias):
        nn.init.uniform_(parameter, -bound, bound, generator=draws)
