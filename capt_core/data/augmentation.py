"""Random views of images, each fixed by a seed, the sample and the number of the view."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from capt_core.data.images import Preprocess, open_image, train_transform, transform_with_seed

if TYPE_CHECKING:
    import torch


def view_seed(seed: int, sample_id: int, view: int) -> int:
    """Seed of one random view: a non-negative 63-bit number."""
    digest = hashlib.sha256(f"{seed}/{sample_id}/{view}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def augmented_batches(
    paths: Sequence[Path],
    sample_ids: Sequence[int],
    view: int,
    preprocess: Preprocess,
    seed: int,
    batch_size: int,
    workers: int,
) -> Iterator[torch.Tensor]:
    """One random crop and flip of each image (`train_transform`), as batches [B, 3, S, S].

    The draw of an image does not depend on the other images, on their order or on the batches.
    torch's global generator is left as it was.

    Args:
        paths: image files.
        sample_ids: of the images, in the same order.
        view: number of the view, from 1.
        preprocess: image size and normalisation.
        seed: of all views.
        batch_size: images per batch.
        workers: threads that decode.

    Raises:
        CaptError: an image is missing or not readable.
    """
    import torch

    transform = train_transform(preprocess)
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for start in range(0, len(paths), batch_size):
            images = pool.map(open_image, paths[start : start + batch_size])
            batch = []
            for sample_id, image in zip(sample_ids[start:], images, strict=False):
                batch.append(
                    transform_with_seed(transform, image, view_seed(seed, sample_id, view))
                )
            yield torch.stack(batch)
