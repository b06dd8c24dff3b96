"""Sets of rendered textures, in memory, for pretraining and measuring."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from capt_core.data.proctex import CLASS_NAMES, ImageFacts, render_with_facts


@dataclass(frozen=True)
class TextureSet:
    """Images in order of class, then of index.

    Attributes:
        images: RGB, uint8, (n, 64, 64, 3).
        facts: what each image shows, n of them.
    """

    images: NDArray[np.uint8]
    facts: tuple[ImageFacts, ...]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image, (n,)."""
        return np.array([facts.class_id for facts in self.facts], dtype=np.int64)

    def first(self, per_class: int) -> TextureSet:
        """The first so many images of every class, or all where there are fewer."""
        before: Counter[int] = Counter()
        rows = []
        for row, facts in enumerate(self.facts):
            if before[facts.class_id] < per_class:
                rows.append(row)
            before[facts.class_id] += 1
        return TextureSet(self.images[rows], tuple(self.facts[row] for row in rows))


def render_set(seed: int, split: str, per_class: int, workers: int = 1) -> TextureSet:
    """Render ``per_class`` images of every class.

    Args:
        seed: seed of the benchmark.
        split: split to render, see :func:`capt_core.data.proctex.render_with_facts`.
        per_class: images of each class.
        workers: processes; the images do not depend on it.
    """
    render = partial(_render_class, seed, split, per_class)
    labels = range(len(CLASS_NAMES))
    if workers > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            parts = list(pool.map(render, labels))
    else:
        parts = [render(label) for label in labels]
    images = np.concatenate([images for images, _ in parts])
    return TextureSet(images, tuple(fact for _, facts in parts for fact in facts))


def _render_class(
    seed: int, split: str, per_class: int, class_id: int
) -> tuple[NDArray[np.uint8], list[ImageFacts]]:
    pairs = [render_with_facts(seed, split, class_id, index) for index in range(per_class)]
    return np.stack([image for image, _ in pairs]), [facts for _, facts in pairs]
