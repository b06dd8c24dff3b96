"""The classes and sentences of a step, and its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from capt_core.learning.loop import Record
from capt_core.learning.randomness import generator
from capt_core.methods.lweib.model import EnrichedClip
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.towers import tower_blocks
from capt_core.methods.zero_shot import class_logits


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
