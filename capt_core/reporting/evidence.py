"""What advice on confused pairs is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

LEAST_TEXT_PAIRS = 10
"""Pairs of classes; with fewer (four classes) their spread is not known."""


@dataclass(frozen=True)
class Evidence:
    """What the advice is drawn from; None where something is not there.

    Attributes:
        dataset: its name.
        again: options with which `run` makes anew what the report shows.
        repaired: whether there is a repaired model.
        imported: whether the base model's predictions were imported; its names, texts and
            prompts are not known then.
        unsuited: whether the base model knows too little about such images for its confusions to
            say anything about the classes.
        outcomes: from `image_outcomes`, of the first seed.
        suspects: table `suspected_labels`.
        training: `sample_id`, `class_id` of the training images that were drawn.
        available: training images per class, drawn or not, by class id.
        features: of all samples, unit length, [N, d].
        texts: of all classes, unit length, [C, d].
        prompts: table `prompts`.
        separation: table `prompt_separation`.
    """

    dataset: str
    again: Mapping[str, object]
    repaired: bool
    imported: bool
    unsuited: bool
    outcomes: pl.DataFrame
    suspects: pl.DataFrame
    training: pl.DataFrame
    available: Mapping[int, int]
    features: npt.NDArray[np.float32] | None
    texts: npt.NDArray[np.float32] | None
    prompts: pl.DataFrame | None
    separation: pl.DataFrame | None

    @cached_property
    def text_spread(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the cosines of all pairs of class texts."""
        if self.texts is None:
            return None
        cosines = (self.texts @ self.texts.T)[np.triu_indices(len(self.texts), k=1)]
        if len(cosines) < LEAST_TEXT_PAIRS:
            return None
        return float(cosines.mean()), float(cosines.std())

    @cached_property
    def drawn(self) -> Mapping[int, npt.NDArray[np.int64]]:
        """Sample ids of the drawn training images by class id."""
        return {
            int(class_id): part["sample_id"].to_numpy()
            for (class_id,), part in self.training.group_by("class_id", maintain_order=True)
        }


@dataclass(frozen=True)
class Step:
    """Advice on a pair."""

    action: str
    reason: str
    command: str = ""


Pair = Mapping[str, Any]
"""A row of the table `pair_results`."""


def nearest_cosines(
    features: npt.NDArray[np.float32],
    images: npt.NDArray[np.int64],
    members: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Cosine of each image to the nearest of the members that is not the image itself, [n].

    Args:
        features: unit length, [N, d].
        images: rows, [n].
        members: rows, [m].
    """
    cosines = (features[images] @ features[members].T).astype(np.float64)
    cosines[images[:, None] == members[None, :]] = -1.0
    return np.asarray(cosines.max(axis=1), dtype=np.float64)


def cohens_d(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Difference of two means over their pooled standard deviation (Cohen, 1988); 0 without one."""
    n, m = len(first), len(second)
    pooled = ((n - 1) * first.var(ddof=1) + (m - 1) * second.var(ddof=1)) / (n + m - 2)
    return float((first.mean() - second.mean()) / np.sqrt(pooled)) if pooled > 0 else 0.0
