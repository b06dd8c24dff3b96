"""Rows of a training step: anchors, each followed by its representatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl
import torch

from capt_core.methods.capt.adapter import dynamic_weight


@dataclass(frozen=True)
class Anchor:
    """A training image and what was retrieved for it.

    Attributes:
        sample_id: the image.
        representatives: sample ids of its representatives.
        alphas: adapter weight of each representative (eq. 13).
    """

    sample_id: int
    representatives: tuple[int, ...]
    alphas: tuple[float, ...]


@dataclass(frozen=True)
class Rows:
    """What one step forwards.

    Attributes:
        sample_ids: [L].
        labels: class id of each row, its own true class, [L].
        alphas: adapter weight of each row, [L].
        retrieved: rows whose weight comes from a retrieval, [L] bool.
        anchors: rows that are anchors, not representatives, [L] bool.
        partners: of each row, the image that it is mixed with, or None.
    """

    sample_ids: list[int]
    labels: torch.Tensor
    alphas: torch.Tensor
    retrieved: torch.Tensor
    anchors: torch.Tensor
    partners: list[int | None]

    @property
    def mixtures(self) -> torch.Tensor | None:
        """Rows that are mixtures, [L] bool; None where there are none."""
        mixed = torch.tensor([partner is not None for partner in self.partners])
        return mixed if mixed.any() else None


def build_anchors(
    sample_ids: Sequence[int], representatives: pl.DataFrame, scale: float, exponent: float
) -> list[Anchor]:
    """Join training images with their representatives.

    Args:
        sample_ids: anchors, in the order of the few-shot list.
        representatives: the table `representatives`.
        scale: s of eq. 13.
        exponent: gamma of eq. 13.
    """
    found: dict[int, list[tuple[int, float]]] = {}
    columns = ("sample_id", "representative_id", "cosine")
    for sample_id, representative, cosine in representatives.select(columns).iter_rows():
        found.setdefault(sample_id, []).append((representative, cosine))
    anchors = []
    for sample_id in sample_ids:
        retrieved = found.get(sample_id, [])
        cosines = torch.tensor([cosine for _, cosine in retrieved], dtype=torch.float64)
        anchors.append(
            Anchor(
                sample_id,
                tuple(representative for representative, _ in retrieved),
                tuple(dynamic_weight(cosines, scale, exponent).tolist()),
            )
        )
    return anchors


def anchor_weight(alphas: Sequence[float], running_alpha: float) -> float:
    """Alpha of an anchor: the mean of its representatives' alphas.

    An anchor without any takes the running mean, as every image does at inference.
    """
    return sum(alphas) / len(alphas) if alphas else running_alpha


def build_rows(anchors: Sequence[Anchor], labels: Sequence[int], running_alpha: float) -> Rows:
    """Rows of one step; a representative takes its own alpha, an anchor its `anchor_weight`.

    Args:
        anchors: of this step.
        labels: class id of every sample of the data set, by sample id.
        running_alpha: mean alpha so far.
    """
    sample_ids: list[int] = []
    alphas: list[float] = []
    retrieved: list[bool] = []
    is_anchor: list[bool] = []
    for anchor in anchors:
        own = anchor_weight(anchor.alphas, running_alpha)
        sample_ids += [anchor.sample_id, *anchor.representatives]
        alphas += [own, *anchor.alphas]
        retrieved += [bool(anchor.alphas)] * (1 + len(anchor.alphas))
        is_anchor += [True] + [False] * len(anchor.alphas)
    return Rows(
        sample_ids,
        torch.tensor([labels[sample_id] for sample_id in sample_ids]),
        torch.tensor(alphas, dtype=torch.float32),
        torch.tensor(retrieved),
        torch.tensor(is_anchor),
        [None] * len(sample_ids),
    )


def by_class(anchors: Sequence[Anchor], labels: Sequence[int]) -> dict[int, list[int]]:
    """Sample ids of the anchors of each class.

    Args:
        anchors: all training images.
        labels: class id of every sample of the data set, by sample id.
    """
    found: dict[int, list[int]] = {}
    for anchor in anchors:
        found.setdefault(labels[anchor.sample_id], []).append(anchor.sample_id)
    return found


def drawn_of_class(
    sample_id: int, members: Sequence[int], draws: torch.Generator, avoided: int | None = None
) -> int:
    """Another image of a class, drawn evenly; the image itself where there is no other.

    Args:
        sample_id: an image that is not to be drawn.
        members: images of the class, by sample id.
        draws: source of the draw.
        avoided: another that is not to be drawn.
    """
    others = [member for member in members if member not in (sample_id, avoided)]
    if not others:
        return sample_id
    return others[int(torch.randint(len(others), (1,), generator=draws))]


def redrawn(
    anchors: Sequence[Anchor],
    members: Mapping[int, Sequence[int]],
    labels: Sequence[int],
    draws: torch.Generator,
) -> list[Anchor]:
    """Anchors whose representatives are other images of the same classes, drawn evenly.

    What differs from the retrieved ones is which images stand for the confusing classes; which
    classes those are, how many rows each has and the weights of eq. 13 stay.

    Args:
        anchors: of a step.
        members: of `by_class`.
        labels: class id of every sample of the data set, by sample id.
        draws: of the step.
    """
    return [
        replace(
            anchor,
            representatives=tuple(
                drawn_of_class(each, members.get(labels[each], ()), draws, anchor.sample_id)
                for each in anchor.representatives
            ),
        )
        for anchor in anchors
    ]


def with_mixtures(
    rows: Rows,
    members: Mapping[int, Sequence[int]],
    labels: Sequence[int],
    draws: torch.Generator,
) -> Rows:
    """Rows followed by a mixture for each anchor: the mean of it and another image of its class.

    Mixtures of one class keep the label (as Chawla et al., JAIR 2002, make samples of a rare
    class), where those of two classes, as in mixup, blur it.

    Args:
        rows: of `build_rows`.
        members: of `by_class`.
        labels: class id of every sample of the data set, by sample id.
        draws: of the step.
    """
    chosen = rows.anchors.nonzero()[:, 0]
    ids = [rows.sample_ids[row] for row in chosen.tolist()]
    none = torch.zeros(len(ids), dtype=torch.bool)
    return Rows(
        [*rows.sample_ids, *ids],
        torch.cat([rows.labels, rows.labels[chosen]]),
        torch.cat([rows.alphas, rows.alphas[chosen]]),
        torch.cat([rows.retrieved, none]),
        torch.cat([rows.anchors, none]),
        [*rows.partners, *(drawn_of_class(i, members[labels[i]], draws) for i in ids)],
    )
