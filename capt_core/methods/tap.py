"""TAP: attribute sentences of classes, and a token of the image tower for each attribute.

Ding et al., "Tree of Attributes Prompt Learning for Vision-Language Models", ICLR 2025.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.learning.averaging import StateAverage, gaussian_weights
from capt_core.learning.loop import Batch, Record
from capt_core.learning.optimisation import epoch_learning_rates
from capt_core.learning.randomness import draw_seed, generator
from capt_core.methods.attribute_bags import SentenceBags, Tree, attributes_of, class_bags
from capt_core.methods.data_facts import DataFacts
from capt_core.methods.descriptions import attribute_sentences, described_groups
from capt_core.methods.image_training import train_on_images
from capt_core.methods.method import Classes, Fitted, Method, Need, undescribed
from capt_core.methods.prompting.fitted import PromptSettings, unit
from capt_core.methods.prompting.image import check_image_tower, encode_image_with_experts
from capt_core.methods.prompting.start import context_start
from capt_core.methods.prompting.text import encode_text_with_prompts, token_embedding
from capt_core.methods.prompting.zero_shot_reference import feature_distance, logits_distance
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged

_CHUNK = 64  # images whose pooled texts are in memory at once


class Phase(NamedTuple):
    """What an epoch of the alternation trains: the context (`text`) or the image side."""

    text: bool
    epoch: int  # of its own phase, from 1


def alternation(vision_epochs: int, text_epochs: int) -> list[Phase]:
    """Epochs of both phases in turn: the j-th of T text epochs follows j V / T vision epochs."""
    phases, done = [], 0
    for text_epoch in range(1, text_epochs + 1):
        end = math.ceil(text_epoch * vision_epochs / text_epochs)
        phases += [Phase(False, epoch) for epoch in range(done + 1, end + 1)]
        phases.append(Phase(True, text_epoch))
        done = end
    return phases


class TapSettings(PromptSettings, path="methods.tap"):
    """The section ``methods.tap``; `epochs` and `learning_rate` are those of the vision phase."""

    text_epochs: int = packaged(ge=1, le=100_000)
    text_learning_rate: float = packaged(gt=0, le=1000)
    length_quantile: float = packaged(gt=0, le=1)
    class_weight: float = packaged(ge=0, le=1)
    image_weight: float = packaged(ge=0, le=1e6)
    logits_weight: float = packaged(ge=0, le=1e6)
    contrast_weight: float = packaged(ge=0, le=1e6)
    text_classes: int = packaged(ge=2, le=100_000)
    gaussian_mean: float = packaged(ge=-100, le=100)
    gaussian_deviation: float = packaged(ge=0.001, le=100)

    @property
    def phases(self) -> list[Phase]:
        """Of every epoch of the training."""
        return alternation(self.epochs, self.text_epochs)

    @property
    def rates(self) -> list[float]:
        """Each phase has a schedule of its own, with its own warm-up."""
        warmup = self.warmup_epochs, self.warmup_learning_rate
        vision = epoch_learning_rates(self.learning_rate, self.epochs, *warmup)
        text = epoch_learning_rates(self.text_learning_rate, self.text_epochs, *warmup)
        return [(text if phase.text else vision)[phase.epoch - 1] for phase in self.phases]


class VisionExperts(nn.Module):
    """Expert tokens of A attributes, and the pooling of H = 1 + A heads, that of the class first.

    Args:
        tokens: at the input of the image tower, [A, D].
        deep: added at the input of each block but the first, [J, A, D].
        query_weight: of the pooling, [H, d, d].
        query_bias: [H, d].
        key_weight: [H, d, d].
        key_bias: [H, d].
    """

    def __init__(
        self,
        tokens: torch.Tensor,
        deep: torch.Tensor,
        query_weight: torch.Tensor,
        query_bias: torch.Tensor,
        key_weight: torch.Tensor,
        key_bias: torch.Tensor,
    ) -> None:
        super().__init__()
        self.tokens, self.deep = nn.Parameter(tokens), nn.Parameter(deep)
        self.query_weight, self.query_bias = nn.Parameter(query_weight), nn.Parameter(query_bias)
        self.key_weight, self.key_bias = nn.Parameter(key_weight), nn.Parameter(key_bias)

    @staticmethod
    def start(attributes: int, visual: Any, width: int, seed: int) -> VisionExperts:
        """Before the first step.

        Args:
            attributes: A.
            visual: open_clip vision transformer.
            width: d, of its features.
            seed: of what is drawn.
        """
        image_width = visual.class_embedding.shape[0]
        # A patch's pixels and a token's width, as of a layer that embeds the one as the other.
        bound = math.sqrt(6 / (3 * math.prod(visual.patch_size) + image_width))
        draws = generator("expert tokens", seed)
        tokens = (2 * torch.rand(attributes, image_width, generator=draws) - 1) * bound
        deep = torch.zeros(len(visual.transformer.resblocks) - 1, attributes, image_width)
        heads = 1 + attributes
        query, key = torch.empty(2, heads, width, width)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw_seed("pooling", seed))
            for weight in (query, key):
                nn.init.trunc_normal_(weight, std=0.02)
        return VisionExperts(
            tokens, deep, query, torch.zeros(heads, width), key, torch.zeros(heads, width)
        )

    def pooled(
        self, tokens: torch.Tensor, sentences: torch.Tensor, used: torch.Tensor
    ) -> torch.Tensor:
        """Vision-conditional pooling: the texts of each class as an image asks for them.

        Args:
            tokens: image features of each head, unit length, [B, H, d].
            sentences: unit length, [H, C, N, d].
            used: which of them there are, [H, C, N].

        Returns:
            Unit length, [H, B, C, d].
        """
        queries = torch.einsum("bhd,hed->hbe", tokens, self.query_weight)
        queries = (queries + self.query_bias[:, None]) / math.sqrt(tokens.shape[-1])
        keys = torch.einsum("hcnd,hed->hcne", sentences, self.key_weight)
        keys = keys + self.key_bias[:, None, None]
        scores = torch.einsum("hbe,hcne->hbcn", queries, keys)
        weights = scores.masked_fill(~used[:, None], float("-inf")).softmax(dim=-1)
        return unit(torch.einsum("hbcn,hcnd->hbcd", weights, sentences))


class AttributeClip(Fitted):
    """CLIP that compares its class token and one token of each attribute with sentences.

    Its features are those of the class token and of the A attributes side by side, [B, (1 + A) d],
    of unit length as a whole.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        context: before every sentence, [n, W].
        experts: the image side.
        attributes: names of the A attributes.
        tree: sentences of the described classes.
    """

    frozen_tower = False
    rivals_matter = True  # the length quantile is taken over the classes asked for

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        context: torch.Tensor,
        experts: VisionExperts,
        attributes: Sequence[str] = (),
        tree: Tree | None = None,
    ) -> None:
        super().__init__(method, backbone)
        self.context = nn.ParameterList([nn.Parameter(context)])
        self.experts = experts
        self.attributes = tuple(attributes)
        self.tree = tree or {}

    def facts(self) -> dict[str, Any]:
        tree = {name: {at: list(rows[at]) for at in rows} for name, rows in self.tree.items()}
        return {"attributes": list(self.attributes), "tree": tree}

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        visual, experts = self.backbone.clip.visual, self.experts
        features = encode_image_with_experts(visual, images, experts.tokens, experts.deep)
        return features.flatten(1)

    def by_head(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, (1 + A) d] of `encode` to those of each head, unit length, [B, 1 + A, d]."""
        return unit(features.unflatten(1, (len(self.experts.query_bias), -1)))

    def encode_sentences(self, bags: SentenceBags) -> torch.Tensor:
        """Features of sentences behind the context, [H, C, N, d], not normalised."""
        clip = self.backbone.clip
        with self.backbone.precision():
            return bags.features(
                lambda tokens: encode_text_with_prompts(clip, tokens, list(self.context))
            )

    def head_logits(
        self, tokens: torch.Tensor, sentences: torch.Tensor, used: torch.Tensor
    ) -> torch.Tensor:
        """Logits of each head, [H, B, C]; see `VisionExperts.pooled`."""
        texts = self.experts.pooled(tokens, sentences, used)
        return self.backbone.logit_scale * torch.einsum("bhd,hbcd->hbc", tokens, texts)

    def combined(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [B, C]: alpha of the class head, the rest shared by the attributes' heads."""
        weight = self.method.settings.class_weight
        return weight * logits[0] + (1 - weight) * logits[1:].mean(dim=0)

    def bags(self, classes: Classes) -> SentenceBags:
        """Sentences of any classes, on the backbone's device.

        Raises:
            CaptError: a class name is too long for the backbone.
        """
        settings, backbone = self.method.settings, self.backbone
        words = settings.context_init
        texts = class_bags(
            classes.names, classes.prompt_names, self.tree, self.attributes, words, backbone
        )
        tokens = [[backbone.tokenizer(bag) for bag in head] for head in texts]
        return SentenceBags.of(tokens, settings.length_quantile).to(backbone.device)

    @torch.no_grad()
    def scorer(self, classes: Classes) -> Callable[[torch.Tensor], torch.Tensor]:
        return self.scorer_of(self.bags(classes))

    @torch.no_grad()
    def scorer_of(self, bags: SentenceBags) -> Callable[[torch.Tensor], torch.Tensor]:
        """`scorer` of the classes whose sentences are given."""
        sentences = unit(self.encode_sentences(bags))

        def part(features: torch.Tensor) -> torch.Tensor:
            tokens = self.by_head(features)
            found = self.head_logits(tokens, sentences.to(tokens), bags.used.to(tokens.device))
            return self.combined(found)

        def score(features: torch.Tensor) -> torch.Tensor:
            if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore
                return part(features)  # an exported model takes any number of images
            return torch.cat([part(chunk) for chunk in features.split(_CHUNK)])

        return score

    def readable_prompts(self, classes: Classes) -> list[str]:
        """The first sentence of each class, vectors in place of the words they started from."""
        settings = self.method.settings
        words, length = settings.context_init.split(), settings.context_length
        before = " ".join([*(f"[v{number}]" for number in range(1, length + 1)), *words[length:]])
        return [f"{before} {name}." for name in classes.prompt_names]


def head_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each head, [H], of logits [H, B, C] and positions of the classes [B]."""
    return torch.stack([functional.cross_entropy(head, labels) for head in logits])


def contrast(learned: torch.Tensor, frozen: torch.Tensor, scale: float) -> list[torch.Tensor]:
    """Cross-entropy of each sentence over all, learned against frozen and the other way round.

    Args:
        learned: features with the learned context, unit length, [M, d].
        frozen: of the same sentences with their own words, unit length, [M, d].
        scale: inverse temperature.
    """
    logits = class_logits(learned, frozen, scale)
    own = torch.arange(len(logits), device=logits.device)
    return [functional.cross_entropy(each, own) for each in (logits, logits.T)]


def batch_classes(
    labels: torch.Tensor, count: int, most: int, draws: torch.Generator
) -> torch.Tensor:
    """Positions of the classes of a text step: those of the batch and random others.

    Args:
        labels: of the batch, [B].
        count: number of trained classes.
        most: how many take part; all do if there are no more. A batch keeps all of its own.
        draws: of the others.

    Returns:
        [K], ascending.
    """
    if count <= most:
        return torch.arange(count)
    own = labels.cpu().unique()
    order = torch.randperm(count, generator=draws)
    others = order[~torch.isin(order, own)]
    return torch.cat([own, others[: max(0, most - len(own))]]).sort().values


class AlternatingLoss:
    """The loss of TAP, in whichever phase a batch belongs to.

    Args:
        fitted: what is trained.
        bags: sentences of the trained classes.
        zero_shot: frozen text features of the same classes, unit length, [C, d].
        seed: of what is drawn.
    """

    def __init__(
        self, fitted: AttributeClip, bags: SentenceBags, zero_shot: torch.Tensor, seed: int
    ) -> None:
        self.fitted, self.bags, self.zero_shot, self.seed = fitted, bags, zero_shot, seed
        backbone = fitted.backbone
        with torch.no_grad(), backbone.precision():
            self.frozen = unit(bags.features(backbone.clip.encode_text))
        self._phases: list[Phase] = fitted.method.settings.phases
        self._batch = Batch(1, 0, [], 1)
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def begin(self, batch: Batch) -> None:
        """Turn to the phase of a batch: the other side gets no gradient, and so no step."""
        self._batch = batch
        self.fitted.experts.requires_grad_(not self.phase.text)
        self.fitted.context.requires_grad_(self.phase.text)

    @property
    def phase(self) -> Phase:
        return self._phases[self._batch.epoch - 1]

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, Record]:
        """The sum for images [B, 3, S, S] and positions of their classes [B]."""
        parts = self.parts(images, labels)
        names = ("cross_entropy", "image", "logits", "contrast")
        record = {f"{name}_loss": parts[name].item() if name in parts else None for name in names}
        return torch.stack(list(parts.values())).sum(), record

    def parts(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each term as it enters the sum."""
        return (self.text_parts if self.phase.text else self.vision_parts)(images, labels)

    def vision_parts(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The terms of a vision phase, whose text features stand still."""
        tokens, frozen = self.image_features(images)
        logits = self.fitted.head_logits(tokens, self._still(), self.bags.used)
        distance = feature_distance(tokens[:, 0], frozen)
        weight = self.fitted.method.settings.image_weight
        parts = self.shared_parts(logits, labels, self.zero_shot_logits(frozen))
        return parts | {"image": weight * distance}

    def text_parts(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The terms of a text phase, whose image features stand still."""
        settings = self.fitted.method.settings
        with torch.no_grad():
            tokens, frozen = self.image_features(images)
        draws = generator("tap classes", self.seed, self._batch.step, self._batch.number)
        count = self.zero_shot.shape[0]
        classes = batch_classes(labels, count, settings.text_classes, draws).to(labels.device)
        bags = self.bags.only(classes)
        sentences = unit(self.fitted.encode_sentences(bags))
        logits = self.fitted.head_logits(tokens, sentences, bags.used)
        zero_shot = self.zero_shot_logits(frozen)[:, classes]
        parts = self.shared_parts(logits, torch.searchsorted(classes, labels), zero_shot)
        both = torch.stack(self.contrasts(sentences, classes)).sum()
        return parts | {"contrast": settings.contrast_weight / 2 * both}

    def contrasts(self, sentences: torch.Tensor, classes: torch.Tensor) -> list[torch.Tensor]:
        """`contrast` of a sentence of every head and class, by features [H, K, N, d]."""
        drawn = self.drawn(self.bags.used[:, classes].cpu()).to(classes.device)[..., None, None]
        learned, frozen = (
            features.take_along_dim(drawn, dim=2).flatten(0, 2)
            for features in (sentences, self.frozen[:, classes])
        )
        return contrast(learned, frozen, self.fitted.backbone.logit_scale)

    def shared_parts(
        self, logits: torch.Tensor, labels: torch.Tensor, zero_shot: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Terms of both phases: means over the heads, of logits [H, B, C]."""
        weight = self.fitted.method.settings.logits_weight
        return {
            "cross_entropy": head_losses(logits, labels).mean(),
            "logits": weight * logits_distance(logits, zero_shot),
        }

    def drawn(self, used: torch.Tensor) -> torch.Tensor:
        """A place of each bag that takes part in the contrast, [H, C], of those in use."""
        draws = generator("tap sentences", self.seed, self._batch.step, self._batch.number)
        counts = used.sum(dim=-1)
        return (torch.rand(counts.shape, generator=draws) * counts).long().clamp(max=counts - 1)

    def image_features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each head [B, H, d], and of the frozen CLIP [B, d], unit length."""
        backbone = self.fitted.backbone
        with backbone.precision():
            tokens = self.fitted.by_head(self.fitted.encode(images))
            with torch.no_grad():
                return tokens, unit(backbone.clip.encode_image(images))

    def zero_shot_logits(self, frozen: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of the frozen CLIP."""
        return class_logits(frozen, self.zero_shot, self.fitted.backbone.logit_scale)

    @torch.no_grad()
    def _still(self) -> torch.Tensor:
        """Sentence features, encoded again only when the context has changed."""
        context = self.fitted.context[0]
        if self._kept is None or not torch.equal(self._kept[0], context):
            sentences = unit(self.fitted.encode_sentences(self.bags))
            self._kept = context.clone(), sentences
        return self._kept[1]


class AlternatingAverage(nn.Module):
    """Both sides with their Gaussian-weighted sums over the epochs of their own phases.

    Args:
        fitted: whose sides take their averages at the end of their last epochs.
        settings: of TAP.
    """

    def __init__(self, fitted: AttributeClip, settings: TapSettings) -> None:
        super().__init__()
        self.phases = settings.phases

        def average(side: nn.Module, epochs: int) -> StateAverage:
            shares = settings.gaussian_mean, settings.gaussian_deviation
            return StateAverage(side, gaussian_weights(epochs, *(epochs * x for x in shares)))

        self.vision = average(fitted.experts, settings.epochs)
        self.text = average(fitted.context, settings.text_epochs)

    def add(self, epoch: int) -> None:
        """Add the side that an epoch, counted from 1, has trained."""
        phase = self.phases[epoch - 1]
        side = self.text if phase.text else self.vision
        side.add(phase.epoch)
        if phase.epoch == len(side.weights):
            side.load()


class TAP(Method):
    """Attribute sentences behind a learned context, attribute tokens in the image tower, in turn.

    The original draws its sentences from a language model; here those of the prompt store or of
    the language model's answers count. ``a photo of a NAME.`` stands where nothing is written.
    """

    name = "tap"
    label = "TAP"
    citation = "Ding et al., ICLR 2025"
    needs = frozenset({Need.PIXELS, Need.CLASS_DESCRIPTIONS})
    compares_texts = False
    Settings = TapSettings

    def check_clip(self, clip: Any) -> None:
        token_embedding(clip)
        check_image_tower(clip.visual)

    def check_data(self, data: DataFacts) -> None:
        super().check_data(data)
        if data.attributes is not None and not set(data.attributes) & set(data.base):
            what = "what is written about attributes of the trained classes"
            raise CaptError(undescribed(self.name, data.dataset, what))

    def start(self, backbone: Backbone, tree: Tree, seed: int) -> AttributeClip:
        """Before the first step.

        Raises:
            CaptError: no words to start the context from, or fewer than vectors.
        """
        settings = self.settings
        if settings.context_init is None:
            raise CaptError(
                "methods.tap.context_init: sentences need words before them; give some, such as "
                "'a photo of a'"
            )
        attributes = attributes_of(tree)
        context = context_start(settings.context_init, settings.context_length, backbone, seed)
        width = encode_texts(["a"], backbone).shape[1]
        experts = VisionExperts.start(len(attributes), backbone.clip.visual, width, seed)
        return AttributeClip(self, backbone, context, experts, attributes, tree)

    def fit(self, task: Task) -> AttributeClip:
        tree, dataset, backbone = attribute_sentences(task), task.dataset, task.backbone
        classes = Classes.of(dataset).only(task.trained_classes)
        fitted = self.start(backbone, tree, task.seed).to(backbone.device)
        for group in ("base", "novel"):
            names = [dataset.class_names[class_id] for class_id in dataset.class_ids(group)]
            found = sum(name in tree for name in names)
            task.reporter.say(
                f"{found} of {len(names)} {group} classes described by "
                f"{', '.join(fitted.attributes)}"
            )
        zero_shot = encode_texts(classes.prompts, backbone).to(backbone.device)
        loss_of = AlternatingLoss(fitted, fitted.bags(classes), zero_shot, task.seed)
        average = AlternatingAverage(fitted, self.settings).to(backbone.device)
        train_on_images(
            self,
            task,
            fitted,
            list(fitted.parameters()),
            loss_of,
            state=average,
            after_epoch=average.add,
            before_batch=loss_of.begin,
        )
        return fitted

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> AttributeClip:
        # Copies: sums of products differ in their last bits where a file's tensors are not aligned.
        side = "experts."
        experts = {
            name.removeprefix(side): value.clone()
            for name, value in tensors.items()
            if name.startswith(side)
        }
        context = tensors["context.0"].clone()
        parts = facts["attributes"], facts["tree"]
        return AttributeClip(self, backbone, context, VisionExperts(**experts), *parts)

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        assert isinstance(fitted, AttributeClip)
        described = described_groups(task, fitted.tree, "attribute sentences")
        return [*super().sees(task, fitted), *described]
