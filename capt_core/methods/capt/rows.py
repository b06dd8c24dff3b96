"""Rows of a training step: anchors, each followed by its representatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """

    sample_ids: list[int]
    labels: torch.Tensor
    alphas: torch.Tensor
    retrieved: torch.Tensor
    anchors: torch.Tensor


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
    )
