"""The dynamic hard negative optimizer: each image's likeliest wrong classes join its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from capt_core.methods.zero_shot import class_logits

MINING_SCALE = 100.0
"""Published inverse temperature of the mined probabilities, whatever the backbone's own is."""

LEAST = 2
"""Negatives of an anchor below which classes are drawn at random."""


def mined_probabilities(
    images: torch.Tensor, texts: torch.Tensor, scale: float = MINING_SCALE
) -> torch.Tensor:
    """The backbone's probabilities [B, C] of unit-length features [B, d] and [C, d]."""
    return class_logits(images, texts, scale).softmax(dim=-1)


def random_classes(among: range, draws: torch.Generator) -> Iterator[int]:
    """Classes drawn with replacement, without end."""
    while True:
        yield among[int(torch.randint(len(among), (), generator=draws))]


def hard_negatives(
    probabilities: torch.Tensor,
    labels: Sequence[int],
    top: int,
    drawn: Iterator[int],
    tries: int,
) -> list[list[int]]:
    """Classes that each anchor is likeliest to be taken for, none twice in a batch.

    An anchor keeps those of its likeliest classes that are neither the label of any anchor nor kept
    by one before it, so all of them where its own label is not among them. Where fewer than 2 are
    left, classes that are not in the batch yet are drawn until there are 2.

    Args:
        probabilities: of the backbone, [B, C].
        labels: of the anchors, [B].
        top: how many of an anchor's likeliest classes are looked at; at most C are.
        drawn: gives classes at random.
        tries: how many may be drawn for an anchor.

    Returns:
        For each anchor the classes of its negatives, likeliest first, drawn ones last.
    """
    seen, negatives = set(labels), []
    ranked = probabilities.argsort(dim=1, descending=True, stable=True)[:, :top]
    for likeliest in ranked.tolist():
        kept = [each for each in likeliest if each not in seen]
        seen.update(kept)
        left = tries
        while len(kept) < LEAST and left:
            left -= 1
            candidate = next(drawn)
            if candidate not in seen:
                kept.append(candidate)
                seen.add(candidate)
        negatives.append(kept)
    return negatives


@dataclass(frozen=True)
class Rows:
    """A batch of pairs of an image and its class.

    Attributes:
        images: [L, 3, S, S].
        labels: positions of the classes, [L].
    """

    images: torch.Tensor
    labels: torch.Tensor


def enlarged(
    anchors: Rows,
    negatives: Sequence[Sequence[int]],
    images_of: Callable[[list[int]], torch.Tensor],
) -> Rows:
    """Anchors with their negatives: an anchor, its negatives, the next anchor, ...

    Args:
        anchors: B rows.
        negatives: classes of each anchor's.
        images_of: gives an image of each of n classes, [n, 3, S, S].
    """
    classes = [each for kept in negatives for each in kept]
    if not classes:
        return anchors
    order, behind = [], len(negatives)
    for anchor, kept in enumerate(negatives):
        order += [anchor, *range(behind, behind + len(kept))]
        behind += len(kept)
    found = images_of(classes).to(anchors.images)
    labels = torch.cat([anchors.labels, torch.tensor(classes).to(anchors.labels)])
    return Rows(torch.cat([anchors.images, found])[order], labels[order])
