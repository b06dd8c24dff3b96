"""What an image tower's tokens tell, beside its pooled feature: probes and confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.detail_tower import class_token_and_patches
from capt_core.backbone.tiny_clip.measure import HALVES, Features, linear_probe
from capt_core.backbone.tiny_clip.model import normalise
from capt_core.data.proctex import CLASS_NAMES

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

KINDS: Final = {
    "class_token": (0,),
    "patches": (1,),
    "class_and_patches": (0, 1),
    "class_and_leaving_patches": (0, 2),
}
"""What is probed: numbers of the parts of :func:`embed_tokens`."""

_SHOTS: Final = {16: (0, 1, 2), 64: (0,)}  # images of each class and seeds of their draws
_BATCH: Final = 250


def embed_tokens(
    tower: VisionTransformer, images: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Class tokens and mean patch tokens, see :func:`class_token_and_patches`, each (n, width)."""
    device = tower.class_embedding.device
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            pixels = torch.from_numpy(images[start : start + _BATCH]).permute(0, 3, 1, 2).to(device)
            parts.append(class_token_and_patches(tower, normalise(pixels)))
    token, entering, leaving = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return token, entering, leaving


def beside(
    pool: Sequence[NDArray[np.float32]], *others: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Several kinds of features side by side, each centred and scaled alike for a probe.

    Args:
        pool: kinds of features, each (n, width); their mean and root mean square norm are used.
        others: the same kinds of other images.

    Returns:
        For the pool and for each of the others, (n, sum of widths); every kind has unit root mean
        square norm over the pool.
    """
    centres = [values.mean(0) for values in pool]
    norms = [
        np.sqrt(np.square(values - centre).sum(1).mean())
        for values, centre in zip(pool, centres, strict=True)
    ]
    return [
        np.concatenate(
            [(v - c) / n for v, c, n in zip(values, centres, norms, strict=True)], axis=1
        )
        for values in (pool, *others)
    ]


def confusions(features: Features, class_features: NDArray[np.float32]) -> NDArray[np.int64]:
    """Counts of images of each class taken for each other of its half, off the diagonal, flat."""
    counts = []
    for classes in HALVES.values():
        part = features.of(classes)
        nearest = (part.values @ class_features[list(classes)].T).argmax(axis=1)
        table = np.zeros((len(classes), len(classes)), dtype=np.int64)
        np.add.at(table, (part.labels - classes.start, nearest), 1)
        counts.append(table[~np.eye(len(classes), dtype=bool)])
    return np.concatenate(counts)


def probes(
    pool: Sequence[NDArray[np.float32]],
    val: Sequence[NDArray[np.float32]],
    labels: Mapping[str, NDArray[np.int64]],
) -> dict[str, float]:
    """Linear-probe accuracy by half and shots, per cent: mean of three draws of 16, one of 64.

    Args:
        pool: kinds of features to learn from, each (n, width), see :func:`beside`.
        val: the same kinds of the images that are scored.
        labels: of either, by these names. Shots that the pool has too few images for are left out.
    """
    learned, scored = beside(pool, val)
    sets = Features(learned, labels["pool"]), Features(scored, labels["val"])
    most = len(learned) // len(CLASS_NAMES)
    return {
        f"{half}_{shots}": round(
            float(np.mean([linear_probe(*sets, classes, shots, seed) for seed in seeds])), 2
        )
        for (half, classes), (shots, seeds) in product(HALVES.items(), _SHOTS.items())
        if shots <= most
    }


def rank_correlation(own: NDArray[np.int64], others: NDArray[np.int64]) -> float:
    """Spearman's correlation of two counts of :func:`confusions`."""
    return round(float(spearmanr(own, others).statistic), 4)
