"""TAC: task-aware centres of class descriptions beside the learned prompts of both towers.

Hao et al., "Task-Aware Clustering for Prompting Vision-Language Models", CVPR 2025.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from capt_core.methods.data_facts import DataFacts
from capt_core.methods.descriptions import described_groups, sentences_by_class
from capt_core.methods.feature_training import minimise
from capt_core.methods.image_tower import ImageTower, PromptedTower
from capt_core.methods.image_training import FewShotViews
from capt_core.methods.method import Classes, Method, Need, undescribed
from capt_core.methods.prompting.fitted import PromptMethod, PromptSettings, unit
from capt_core.methods.prompting.start import embedded_words, random_prompts
from capt_core.methods.prompting.text import PLACEHOLDER, made_room, text_blocks, token_embedding
from capt_core.methods.prompting.zero_shot_reference import feature_distance, frozen_text_features
from capt_core.methods.promptsrc import IndependentPrompts
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged

MOST_ROUNDS = 1000
"""Rounds of K-means after which the centres are taken as they are."""

SHIFT = 1e-4
"""K-means has settled when the square of the sum of all centres' shifts is less."""


class TacSettings(PromptSettings, path="methods.tac"):
    """The section ``methods.tac``."""

    centres: int = packaged(ge=1, le=1000)
    image_prompts: int = packaged(ge=1, le=1000)
    text_weight: float = packaged(ge=0, le=1e6)
    image_weight: float = packaged(ge=0, le=1e6)
    views: int = packaged(ge=1, le=1000)
    smallest_crop: float = packaged(gt=0, le=1)
    dropout: float = packaged(ge=0, lt=1)


def text_knowledge(clip: Any, tokens: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """What the frozen text tower knows of each class (W_gpt), unit length, [C, d].

    The mean of the features of a class's descriptions, which are not normalised before it.

    Args:
        clip: open_clip model.
        tokens: ids of all descriptions, [n, L].
        owners: position of each one's class, [n]; every class has one at least.
    """
    features = frozen_text_features(clip, tokens)
    rows = [features[owners == owner].mean(dim=0) for owner in range(int(owners.max()) + 1)]
    return unit(torch.stack(rows))


def task_centres(points: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """K-means by cosine: each point to its most similar centre, each centre to its points' mean.

    It ends when the centres have settled (see `SHIFT`), or after `MOST_ROUNDS`. A centre that no
    point is nearest to stays where it is.

    Args:
        points: [C, d], of any length.
        start: the centres before the first round, [K, d].

    Returns:
        The centres, means as they are, [K, d], and the centre of each point that they are means
        of, [C].
    """
    centres = start
    nearest = torch.zeros(len(points), dtype=torch.long, device=points.device)
    for _ in range(MOST_ROUNDS):
        nearest = (unit(points) @ unit(centres).T).argmax(dim=1)
        rows = [points[nearest == centre] for centre in range(len(centres))]
        means = [own.mean(dim=0) if len(own) else centres[k] for k, own in enumerate(rows)]
        moved = torch.stack(means)
        shift = (moved - centres).norm(dim=1).sum()
        centres = moved
        if shift**2 < SHIFT:
            break
    return centres, nearest


def centre_mask(tokens: int, centres: int, prompts: int) -> torch.Tensor:
    """Who may not attend to whom in the image tower: patches not to the centre tokens.

    Args:
        tokens: class token and patches, 1 + N.
        centres: K, which follow them.
        prompts: m, which come last.

    Returns:
        [1 + N + K + m, the same]; True is forbidden, rows attend to columns.
    """
    size = tokens + centres + prompts
    forbidden = torch.zeros(size, size, dtype=torch.bool)
    forbidden[1:tokens, tokens : tokens + centres] = True
    return forbidden


class TaskAwareTower(PromptedTower):
    """A tower with prompts whose patches do not attend to the centre tokens among them.

    Args:
        visual: `clip.visual`, frozen.
        prompts: by depth, each [K + m, D], centre tokens first.
        centres: K.
    """

    def __init__(
        self, visual: Any, prompts: Sequence[torch.Tensor] | torch.Tensor, centres: int
    ) -> None:
        super().__init__(visual, prompts)
        self.centres = centres

    def through(self, tokens: torch.Tensor, block: int) -> torch.Tensor:
        prompts = self.prompts[0].shape[0]
        forbidden = centre_mask(tokens.shape[1] - prompts, self.centres, prompts - self.centres)
        added = torch.zeros(forbidden.shape).masked_fill(forbidden, float("-inf"))
        found: torch.Tensor = self.blocks[block](tokens, attn_mask=added.to(tokens.device))
        return found


class TaskAwarePrompts(IndependentPrompts):
    """CLIP with prompts of both towers behind tokens of the task's centres, the same at each block.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        text: [J_t, n, W], by depth; the first is the context.
        image: [J_v, m, D], by depth.
        centres: [K, d], unit length; those of the trained classes, for novel names too.
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        text: torch.Tensor,
        image: torch.Tensor,
        centres: torch.Tensor,
    ) -> None:
        super().__init__(method, backbone, text, image)
        self.centres: torch.Tensor
        self.register_buffer("centres", centres)
        self.to_text = nn.Linear(centres.shape[1], text.shape[2], dtype=text.dtype)
        self.to_image = nn.Linear(centres.shape[1], image.shape[2], dtype=image.dtype)

    @property
    def room(self) -> int:
        """Positions of a text that centre tokens and context take up."""
        return self.centres.shape[0] + self.text.shape[1]

    def text_prompts(self) -> torch.Tensor:
        return _behind(self.to_text(self.centres), self.text)

    def image_prompts(self) -> torch.Tensor:
        return _behind(self.to_image(self.centres), self.image)

    def image_tower(self) -> ImageTower:
        return TaskAwareTower(
            self.backbone.clip.visual, self.image_prompts(), self.centres.shape[0]
        )

    def tokens(self, names: Sequence[str]) -> torch.Tensor:
        """Token ids [C, L] of class names behind the method's words, with room before them.

        Raises:
            CaptError: a name is too long for the backbone behind centre tokens and context.
        """
        backbone, words = self.backbone, self.method.settings.context_init
        texts = [" ".join(filter(None, [words, f"{name}."])) for name in names]
        before = " ".join([PLACEHOLDER] * self.room)
        check_lengths([f"{before} {text}" for text in texts], backbone)
        return made_room(backbone.tokenizer(texts), self.room).to(backbone.device)

    def readable_prompts(self, classes: Classes) -> list[str]:
        """``[c1] [v1] a photo of a name.``: centre tokens and vectors before the words."""
        vectors = [f"[c{number}]" for number in range(1, len(self.centres) + 1)]
        vectors += [f"[v{number}]" for number in range(1, self.text.shape[1] + 1)]
        before = " ".join(filter(None, [*vectors, self.method.settings.context_init]))
        return [f"{before} {name}." for name in classes.prompt_names]


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
        settings, visual = self.settings, backbone.clip.visual
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
        shape = (
            len(visual.transformer.resblocks),
            settings.image_prompts,
            visual.class_embedding.shape[0],
        )
        image = random_prompts(shape, "image prompts", seed)
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


def _behind(tokens: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    """Prompts [J, n, W] behind the same tokens [K, W] at every depth, [J, K + n, W]."""
    return torch.cat([tokens.to(prompts.dtype).expand(len(prompts), -1, -1), prompts], dim=1)
