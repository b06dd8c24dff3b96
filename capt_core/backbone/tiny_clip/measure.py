"""Zero-shot accuracy and linear probes of the tiny model on rendered textures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from capt_core.backbone.tiny_clip.model import normalise
from capt_core.backbone.tiny_clip.tokenizer import Tokenizer
from capt_core.data.proctex import CLASS_NAMES, TEMPLATE

if TYPE_CHECKING:
    from open_clip.model import CLIP

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
    texts = [TEMPLATE.format(name) for name in CLASS_NAMES]
    tokens = tokenizer(texts).to(model.logit_scale.device)
    with torch.inference_mode():
        values: NDArray[np.float32] = model.encode_text(tokens, normalize=True).cpu().numpy()
    return values


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
