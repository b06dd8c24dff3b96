"""Drawings that all processes of the grid read: made once, into files."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from capt_core.artifacts.files import atomic_path
from capt_core.backbone.tiny_clip.corpus import TextureSet
from capt_core.data.proctex import CLASS_NAMES, ImageFacts, render_with_facts

_PIECE: Final = 100  # images that a process draws at a time


def draw_set(
    pool: ProcessPoolExecutor, name: str, seed: int, split: str, per_class: int, folder: Path
) -> None:
    """Draw a set into a folder, unless it is there.

    Args:
        pool: processes that draw.
        name: of the set's file.
        seed: seed of the drawing.
        split: split that is drawn.
        per_class: images of each class.
        folder: takes the file.
    """
    file = folder / f"{name}.pkl"
    if file.is_file():
        return
    pieces = [
        pool.submit(_draw_piece, seed, split, label, range(start, min(start + _PIECE, per_class)))
        for label in range(len(CLASS_NAMES))
        for start in range(0, per_class, _PIECE)
    ]
    drawn = [piece.result() for piece in pieces]
    images = np.concatenate([images for images, _ in drawn])
    facts = tuple(fact for _, facts in drawn for fact in facts)
    with atomic_path(file) as temporary:
        temporary.write_bytes(pickle.dumps(TextureSet(images, facts), protocol=5))


@cache
def read_set(name: str, folder: Path) -> TextureSet:
    """A set that :func:`draw_set` has written."""
    textures: TextureSet = pickle.loads((folder / f"{name}.pkl").read_bytes())
    return textures


def _draw_piece(
    seed: int, split: str, label: int, indices: range
) -> tuple[NDArray[np.uint8], list[ImageFacts]]:
    pairs = [render_with_facts(seed, split, label, index) for index in indices]
    return np.stack([image for image, _ in pairs]), [facts for _, facts in pairs]
