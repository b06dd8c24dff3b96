"""LwEIB: depth-wise convolutions in both towers, whose weights learn at full gradient.

Yang et al., "Learning with Enriched Inductive Biases for Vision-Language Models", IJCV 2025.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.encoding import check_lengths
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.learning.loop import Batch, Record
from capt_core.learning.optimisation import Optimisation
from capt_core.learning.randomness import draw_seed, generator
from capt_core.methods.data_facts import DataFacts
from capt_core.methods.descriptions import described_groups, phrases_by_class
from capt_core.methods.feature_training import minimise
from capt_core.methods.image_tower import ImageTower
from capt_core.methods.image_training import FewShotViews
from capt_core.methods.method import Fitted, Method, Need, named_vectors, undescribed
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.task import Task
from capt_core.methods.towers import TEMPLATE, TunedTowers, tower_blocks
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import packaged

KERNEL = 3


class LwEIBSettings(Optimisation, path="methods.lweib"):
    """The section ``methods.lweib``."""

    scale: float = packaged(gt=0, le=1000)
    fast_factor: float = packaged(gt=0, le=1000)
    fast_share: float = packaged(ge=0, le=1)
    negative_ratio: int = packaged(ge=-1, le=100_000)
    sentences: int = packaged(ge=1, le=1000)


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor, factor: float) -> torch.Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * context.factor, None


def scaled_gradient(values: torch.Tensor, factor: float) -> torch.Tensor:
    """The very values, whose gradient is multiplied by a factor on its way back to them."""
    if not torch.is_grad_enabled():
        return values
    scaled: torch.Tensor = _ScaledGradient.apply(values, factor)  # type: ignore[no-untyped-call]
    return scaled


def text_convolution(tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Depth-wise convolution along a text, over its padding too.

    Args:
        tokens: [B, L, W].
        weight: [W, 1, 3].

    Returns:
        [B, L, W]; beyond both ends there are zeros.
    """
    rows = tokens.transpose(1, 2)
    return functional.conv1d(rows, weight, padding=KERNEL // 2, groups=len(weight)).transpose(1, 2)


def patch_convolution(
    tokens: torch.Tensor, weight: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """Depth-wise convolution over the grid of the patches; 0 for the class token.

    Args:
        tokens: the class token, then patches row by row, [B, 1 + N, W]; N may be 0.
        weight: [W, 1, 3, 3].
        grid: rows and columns of the patches.

    Returns:
        [B, 1 + N, W]; around the grid there are zeros.
    """
    first, patches = tokens[:, :1], tokens[:, 1:]
    if not patches.shape[1]:
        return torch.zeros_like(tokens)
    image = patches.transpose(1, 2).reshape(len(patches), -1, *grid)
    mixed = functional.conv2d(image, weight, padding=KERNEL // 2, groups=len(weight))
    return torch.cat([torch.zeros_like(first), mixed.flatten(2).transpose(1, 2)], dim=1)


class Convolution(nn.Module):
    """r DW(x), a depth-wise convolution in one place of a block, to be added to x.

    Args:
        weight: [W, 1, 3] of a text tower, [W, 1, 3, 3] of an image tower.
        grid: rows and columns of the image tower's patches.
        scale: r while slow, which is the only one outside training.
        fast_factor: r is this many times as large while fast.
    """

    def __init__(
        self, weight: torch.Tensor, grid: tuple[int, int] | None, scale: float, fast_factor: float
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.grid, self.slow_scale, self.fast_scale = grid, scale, scale * fast_factor
        self.fast = False

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, L, W] to what is added to them, of the same shape.

        The weights' gradient is that of DW, not of r DW; the tokens' is the true one.
        """
        scale = self.fast_scale if self.fast else self.slow_scale
        weight = scaled_gradient(self.weight.to(tokens.device), 1 / scale)
        if self.grid is None:
            return scale * text_convolution(tokens, weight)
        mixed: torch.Tensor = patch_convolution(tokens, weight, self.grid)
        return scale * mixed


class AdaptedNorm(nn.Module):
    """a + r DW(a) for the a = LN(x) that enters the attention."""

    def __init__(self, norm: nn.Module, convolution: Convolution) -> None:
        super().__init__()
        self.norm, self.convolution = norm, convolution

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, L, W] of the block to those of its attention."""
        normalised: torch.Tensor = self.norm(tokens)
        added: torch.Tensor = self.convolution(normalised)
        return normalised + added.to(normalised.dtype)


class AdaptedActivation(nn.Module):
    """The feed-forward part's activation of h + r DW(h), h being its hidden layer."""

    def __init__(self, activation: nn.Module, convolution: Convolution) -> None:
        super().__init__()
        self.activation, self.convolution = activation, convolution

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden layer [B, L, 4 W] to its activation."""
        activated: torch.Tensor = self.activation(hidden + self.convolution(hidden))
        return activated


class EnrichedTower(ImageTower):
    """A tower with the convolutions.

    Args:
        visual: with them.
        frozen: without them.
    """

    def __init__(self, visual: Any, frozen: Any) -> None:
        super().__init__(visual)
        self.frozen = ImageTower(frozen)

    def feed_forward(self, block: int) -> nn.Module:
        # Convolutions over patches give the class token nothing.
        return self.frozen.feed_forward(block)


class EnrichedClip(TunedTowers):
    """CLIP with two depth-wise convolutions in every block of both towers.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        weights: of the convolutions by `convolution_names`: [W, 1, 3] before the attention of a
            text block, [4 W, 1, 3] in its feed-forward part, [..., 1, 3, 3] in an image block.
        class_vectors: the classes' classifiers, see `sentence_mean`; classes without one are
            compared with `TEMPLATE`.
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        weights: Mapping[str, torch.Tensor],
        class_vectors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        settings, grid = method.settings, tuple(backbone.clip.visual.grid_size)
        convolutions: dict[str, Convolution] = {}
        parts: dict[nn.Module, nn.Module] = {}
        for tower, blocks in tower_blocks(backbone.clip).items():
            of_grid = grid if tower == "vision" else None
            for index, block in enumerate(blocks):
                names = convolution_names(tower, index)
                attention, mlp = (
                    Convolution(weights[name], of_grid, settings.scale, settings.fast_factor)
                    for name in names
                )
                parts[block.ln_1] = AdaptedNorm(block.ln_1, attention)
                parts[block.mlp.gelu] = AdaptedActivation(block.mlp.gelu, mlp)
                convolutions |= dict(zip(names, (attention, mlp), strict=True))
        super().__init__(method, backbone, parts, class_vectors)
        self.convolutions = nn.ModuleDict(convolutions)

    def image_tower(self) -> EnrichedTower:
        return EnrichedTower(self.tuned.clip.visual, self.backbone.clip.visual)

    @contextmanager
    def fast(self, blocks: Mapping[str, Sequence[bool]]) -> Iterator[None]:
        """Within the block, fast learning in the given blocks, slow in the others.

        Args:
            blocks: of `text` and `vision`, whether each block is fast; both its convolutions are.
        """
        chosen: list[Any] = [
            self.convolutions[name]
            for tower, flags in blocks.items()
            for index, flag in enumerate(flags)
            if flag
            for name in convolution_names(tower, index)
        ]
        for each in chosen:
            each.fast = True
        try:
            yield
        finally:
            for each in chosen:
                each.fast = False

    def classifier(self, tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        """What images are compared with: see `sentence_mean`.

        Args:
            tokens: ids of each class's sentences, each [S, L].

        Returns:
            [C, d].
        """
        means = []
        for rows in tokens:
            with self.backbone.precision():
                encoded = self.encode_tokens(rows)
            means.append(sentence_mean(encoded))
        return torch.stack(means)


def convolution_names(tower: str, block: int) -> tuple[str, str]:
    """Names of a block's convolutions, before its attention and within its feed-forward part."""
    return f"{tower}_block{block}_attention", f"{tower}_block{block}_mlp"


def sentence_mean(features: torch.Tensor) -> torch.Tensor:
    """The mean of the unit-length features of a class's sentences, [S, d] to unit length [d]."""
    return functional.normalize(unit(features).mean(dim=0), dim=-1)


def used_classes(
    labels: torch.Tensor, count: int, negatives: Sequence[int] | torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The classes that a batch is told apart among, and its labels among them.

    Args:
        labels: of the batch, [B].
        count: C, of the classes.
        negatives: positions among the classes that are not in the batch, ascending, of those that
            stand behind the batch's own, in their order; None takes all classes.

    Returns:
        Classes, the batch's own first, ascending, and positions of the labels among them, [B].
    """
    if negatives is None:
        return torch.arange(count), labels
    present, positions = torch.unique(labels, return_inverse=True)
    others = torch.ones(count, dtype=torch.bool)
    others[present.cpu()] = False
    rest = others.nonzero()[:, 0]
    chosen = rest[torch.as_tensor(negatives, dtype=torch.long)]
    return torch.cat([present.cpu(), chosen]), positions


def negative_draw(
    labels: torch.Tensor, count: int, ratio: int, draws: torch.Generator
) -> torch.Tensor | None:
    """Drawn `negatives` of `used_classes`; None where all classes are used.

    All are used if the batch is as large as the number of classes, or the ratio is negative.

    Args:
        labels: of the batch, [B].
        count: C, of the classes.
        ratio: negatives for each class of the batch, as far as there are so many.
        draws: random numbers.
    """
    if ratio < 0 or count <= len(labels):
        return None
    present = len(torch.unique(labels))
    return torch.randperm(count - present, generator=draws)[: ratio * present]


@dataclass(frozen=True)
class Draws:
    """What is drawn for one step.

    Attributes:
        negatives: see `used_classes`.
        sentences: number of the sentence of each used class, in their order.
        fast: see `EnrichedClip.fast`.
    """

    negatives: torch.Tensor | None
    sentences: Sequence[int] | torch.Tensor
    fast: Mapping[str, Sequence[bool]]


@dataclass(frozen=True)
class SampledClassesLoss:
    """Cross-entropy over the classes of a batch and drawn others, by one sentence of each.

    Attributes:
        fitted: the convolutions.
        tokens: ids of each trained class's sentences, each [S, L].
    """

    fitted: EnrichedClip
    tokens: Sequence[torch.Tensor]

    def draws(self, labels: torch.Tensor, seed: int, step: int, number: int) -> Draws:
        """What is drawn for a forward pass with the labels [B]."""
        settings = self.fitted.method.settings
        draws = generator("lweib", seed, step, number)
        negatives = negative_draw(labels, len(self.tokens), settings.negative_ratio, draws)
        classes, _ = used_classes(labels, len(self.tokens), negatives)
        shares = torch.rand(len(classes), generator=draws)
        lengths = torch.tensor([len(self.tokens[each]) for each in classes.tolist()])
        fast = {
            tower: (torch.rand(len(blocks), generator=draws) < settings.fast_share).tolist()
            for tower, blocks in tower_blocks(self.fitted.backbone.clip).items()
        }
        return Draws(negatives, (shares * lengths).long(), fast)

    def logits(
        self, images: torch.Tensor, labels: torch.Tensor, drawn: Draws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of images [B, 3, S, S] over the used classes, and their labels among these."""
        fitted = self.fitted
        classes, positions = used_classes(labels, len(self.tokens), drawn.negatives)
        sentences = torch.as_tensor(drawn.sentences).tolist()
        pairs = zip(classes.tolist(), sentences, strict=True)
        tokens = torch.stack([self.tokens[each][sentence] for each, sentence in pairs])
        with fitted.fast(drawn.fast), fitted.backbone.precision():
            features, texts = fitted.encode(images), fitted.encode_tokens(tokens)
        scale = fitted.backbone.logit_scale
        return class_logits(unit(features), unit(texts), scale), positions

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, drawn: Draws
    ) -> tuple[torch.Tensor, Record]:
        """Of images [B, 3, S, S] with positions among the trained classes [B]."""
        logits, positions = self.logits(images, labels, drawn)
        return functional.cross_entropy(logits, positions), {"classes": float(logits.shape[1])}


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
            name: tensors[f"convolutions.{name}.weight"].clone()
            for tower, blocks in tower_blocks(backbone.clip).items()
            for block in range(len(blocks))
            for name in convolution_names(tower, block)
        }
        return EnrichedClip(self, backbone, weights, named_vectors(tensors, facts))

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        described = phrases_by_class(task)
        return [*super().sees(task, fitted), *described_groups(task, described, "descriptions")]
