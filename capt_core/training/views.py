"""Where a training step gets its images from: cached tokens, or freshly augmented views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from capt_core.backbone.loading import Backbone
from capt_core.data.images import image_batches, open_image, test_transform, train_transform
from capt_core.methods.capt.model import CaptModel

Views = Callable[[Sequence[int]], torch.Tensor]


@torch.no_grad()
def cached_views(
    model: CaptModel,
    backbone: Backbone,
    paths: Mapping[int, Path],
    workers: int,
    batch_size: int = 64,
) -> Views:
    """Tokens of the frozen prefix, computed once per image with the test transform.

    Args:
        model: whose frozen prefix ends where the first adapter sits.
        backbone: device, precision and image style.
        paths: file of every image that training may ask for, by sample id.
        workers: threads that decode.
        batch_size: images per forward pass.

    Returns:
        A function from sample ids to tokens [L, 1 + N, D] on the backbone's device.
    """
    batches = image_batches(
        list(paths.values()), test_transform(backbone.style), batch_size, workers
    )
    tokens = []
    for batch in batches:
        with backbone.precision():
            tokens.append(model.frozen_prefix(batch.to(backbone.device)))
    cache = torch.cat(tokens)
    position = {sample_id: index for index, sample_id in enumerate(paths)}

    def views(sample_ids: Sequence[int]) -> torch.Tensor:
        return cache[[position[sample_id] for sample_id in sample_ids]]

    return views


def augmented_views(
    model: CaptModel, backbone: Backbone, paths: Mapping[int, Path], workers: int
) -> Views:
    """Tokens of a fresh random crop and flip of each image at every call.

    Files are decoded by several threads; the random draws are made in row order by torch's
    global generator, so that a seed fixes them.
    """
    transform = train_transform(backbone.style)
    pool = ThreadPoolExecutor(max_workers=max(1, workers))

    def opened(sample_id: int) -> Image.Image:
        return open_image(paths[sample_id])

    @torch.no_grad()
    def views(sample_ids: Sequence[int]) -> torch.Tensor:
        images = torch.stack([transform(image) for image in pool.map(opened, sample_ids)])
        with backbone.precision():
            return model.frozen_prefix(images.to(backbone.device))

    return views
