"""Sentences of classes in bags: one bag for every class and attribute, and one of templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from capt_core.backbone.encoding import check_lengths
from capt_core.backbone.loading import Backbone

Tree = Mapping[str, Mapping[str, Sequence[str]]]
"""Sentences by class name and attribute."""

AT_ONCE = 256


def kept_sentences(counts: Sequence[int], quantile: float) -> list[int]:
    """How many sentences of each class are kept: at most the quantile of all counts, rounded down.

    Args:
        counts: sentences of each class in use.
        quantile: between 0 and 1; 1 keeps all.
    """
    most = int(np.quantile(counts, quantile))
    return [min(count, most) for count in counts]


@dataclass(frozen=True)
class SentenceBags:
    """The sentences of H heads and C classes, at most N in a bag.

    Attributes:
        tokens: ids of all sentences, [T, L].
        rows: of each bag's sentences among them, [H, C, N].
        used: which of these places hold one, [H, C, N]; every bag has one or more.
    """

    tokens: torch.Tensor
    rows: torch.Tensor
    used: torch.Tensor

    @staticmethod
    def of(bags: Sequence[Sequence[torch.Tensor]], quantile: float = 1.0) -> SentenceBags:
        """From the token ids of each bag, [n, L] with n >= 1, by head and class.

        Args:
            bags: by head, then by class.
            quantile: see `kept_sentences`; taken over the classes of each head.
        """
        kept = []
        for head in bags:
            counts = kept_sentences([len(bag) for bag in head], quantile)
            kept.append([bag[:count] for bag, count in zip(head, counts, strict=True)])
        lengths = torch.tensor([[len(bag) for bag in head] for head in kept])
        ends = lengths.flatten().cumsum(0).view_as(lengths)
        places = torch.arange(int(lengths.max()))
        used = places < lengths[..., None]
        # An empty place repeats the bag's first sentence; its weight is zero.
        rows = (ends - lengths)[..., None] + torch.where(used, places, 0)
        return SentenceBags(torch.cat([bag for head in kept for bag in head]), rows, used)

    def to(self, device: torch.device) -> SentenceBags:
        """The same on a device."""
        return SentenceBags(self.tokens.to(device), self.rows.to(device), self.used.to(device))

    def only(self, classes: torch.Tensor) -> SentenceBags:
        """Those of some classes, by their positions [K], without the other sentences."""
        kept, rows = torch.unique(self.rows[:, classes], return_inverse=True)
        return SentenceBags(self.tokens[kept], rows, self.used[:, classes])

    def features(self, encode: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What an encoder of token ids, [t, L] to [t, d], gives: [H, C, N, d]."""
        parts = [encode(part) for part in torch.split(self.tokens, AT_ONCE)]
        return torch.cat(parts)[self.rows]


def attributes_of(tree: Tree) -> tuple[str, ...]:
    """Attributes that any class is described by, in the order in which they first occur."""
    return tuple(dict.fromkeys(name for described in tree.values() for name in described))


def class_bags(
    names: Sequence[str],
    prompt_names: Sequence[str],
    tree: Tree,
    attributes: Sequence[str],
    words: str,
    backbone: Backbone,
) -> list[list[list[str]]]:
    """Sentences of any classes: the templates' bag first, then one of each attribute.

    A sentence that is too long for the backbone is left out. ``a photo of a NAME.`` stands where a
    bag would be empty.

    Args:
        names: of the classes, in `tree`; classes that it does not know have names only.
        prompt_names: as they stand in a sentence.
        tree: what is written about classes.
        attributes: of the bags.
        words: before every sentence, such as ``a photo of a``.
        backbone: of the tokenizer.

    Returns:
        Texts by head, class and sentence.

    Raises:
        CaptError: a class name alone is too long for the backbone.
    """
    from capt_core.backbone.light_open_clip import open_clip

    tokenizer = backbone.tokenizer
    plain = [f"{words} {name}." for name in prompt_names]
    check_lengths(plain, backbone)

    def bag(written: Sequence[str], otherwise: str) -> list[str]:
        texts = [f"{words} {sentence}" for sentence in written]
        limit = tokenizer.context_length
        fitting = [text for text in texts if tokenizer.token_count(text) <= limit]
        return fitting or [otherwise]

    templates = [
        [each(name) for each in open_clip.SIMPLE_IMAGENET_TEMPLATES] for name in prompt_names
    ]
    bags = [[bag(*each) for each in zip(templates, plain, strict=True)]]
    for attribute in attributes:
        written = [tree.get(name, {}).get(attribute, ()) for name in names]
        bags.append([bag(*each) for each in zip(written, plain, strict=True)])
    return bags
