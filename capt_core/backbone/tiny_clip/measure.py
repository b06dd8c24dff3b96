"""Zero-shot accuracy and linear probes of the tiny model on rendered textures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from capt_core.backbone.tiny_clip.detail_tower import class_token_and_patches
from capt_core.backbone.tiny_clip.model import normalise
from capt_core.backbone.tiny_clip.tokenizer import Tokenizer
from capt_core.data.proctex import CLASS_NAMES, TEMPLATE

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from open_clip.transformer import VisionTransformer

HALVES: Final[dict[str, range]] = {"base": range(15), "novel": range(15, 30)}
_BATCH: Final = 250
_PROBE_SCALE: Final = 5.0  # unit features are too small for the solver's default penalty


@dataclass(frozen=True)
class Features:
    """Image features of unit length, float32 (n, 128), and their labels (n,)."""

    values: NDArray[np.float32]
    labels: NDArray[np.int64]

    def of(self, classes: range) -> Features:
        """Only the images of these classes."""
        kept = np.isin(self.labels, classes)
        return Features(self.values[kept], self.labels[kept])


def embed_images(model: CLIP, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Image features of unit length, float32 (n, 128), of RGB images, uint8 (n, 64, 64, 3)."""
    parts = []
    device = model.logit_scale.device
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            pixels = torch.from_numpy(images[start : start + _BATCH]).permute(0, 3, 1, 2).to(device)
            parts.append(functional.normalize(model.encode_image(normalise(pixels)), dim=-1))
    values: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return values


def embed_class_names(model: CLIP, tokenizer: Tokenizer) -> NDArray[np.float32]:
    """Text features of unit length of all classes through the template, float32 (30, 128)."""
    tokens = tokenizer([TEMPLATE.format(name) for name in CLASS_NAMES])
    with torch.inference_mode():
        values: NDArray[np.float32] = (
            model.encode_text(tokens.to(model.logit_scale.device), normalize=True).cpu().numpy()
        )
    return values


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


def zero_shot(features: Features, class_features: NDArray[np.float32]) -> dict[str, float]:
    """Accuracy in per cent within each half (15 classes compete) and over all 30 classes."""
    halves = HALVES | {"all": range(len(CLASS_NAMES))}
    accuracies = {}
    for name, classes in halves.items():
        part = features.of(classes)
        nearest = (part.values @ class_features[list(classes)].T).argmax(axis=1) + classes.start
        accuracies[name] = 100 * float((nearest == part.labels).mean())
    return accuracies


def linear_probe(pool: Features, test: Features, classes: range, shots: int, seed: int) -> float:
    """Accuracy in per cent of a logistic regression on a few images of each class.

    Args:
        pool: images to draw the few from.
        test: images to score.
        classes: classes that compete.
        shots: images drawn of each class.
        seed: seed of the draw.

    Raises:
        ValueError: the pool holds fewer than ``shots`` images of a class.
    """
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [
            rng.choice(np.flatnonzero(pool.labels == label), shots, replace=False)
            for label in classes
        ]
    )
    probe = LogisticRegression(max_iter=3000)
    probe.fit(_PROBE_SCALE * pool.values[drawn], pool.labels[drawn])
    scored = test.of(classes)
    return 100 * float(probe.score(_PROBE_SCALE * scored.values, scored.labels))
