"""Pixels of training images: augmented views, each fixed by its seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image

from capt_core.backbone.loading import Backbone
from capt_core.data.dataset import ImageSource
from capt_core.data.images import open_image, test_transform, train_transform, transform_with_seed
from capt_core.learning.randomness import draw_seed, generator

Augmentation = Literal["crop_flip", "none"]
"""Random crops and flips, or the test transform."""


@dataclass(frozen=True)
class View:
    """One look at an image.

    Attributes:
        sample_id: the image.
        number: which of its views; each has its own crop and flip.
        noisy: Gaussian noise is added (a representative, when training asks for noise).
    """

    sample_id: int
    number: int = 0
    noisy: bool = False


@dataclass(frozen=True)
class ViewSource:
    """Pixels of views.

    Attributes:
        files: the images by sample id.
        augmentation: of the views.
        noise: standard deviation of the noise on noisy views, on pixels from 0 to 1.
        seed: of crops, flips and noise; each view's draws depend on nothing else.
        workers: threads that decode.
    """

    files: Mapping[int, ImageSource]
    augmentation: Augmentation
    noise: float
    seed: int
    workers: int

    def pixels(self, views: Sequence[View], backbone: Backbone) -> torch.Tensor:
        """Image tensors [L, 3, S, S] of the views."""
        style = backbone.preprocess
        augmented = self.augmentation == "crop_flip"
        transform = train_transform(style) if augmented else test_transform(style)

        def opened(view: View) -> Image.Image:
            return open_image(self.files[view.sample_id])

        images = []
        with ThreadPoolExecutor(max_workers=max(1, self.workers)) as pool:
            for view, image in zip(views, pool.map(opened, views), strict=True):
                seed = draw_seed("view", self.seed, view.sample_id, view.number)
                pixels = transform_with_seed(transform, image, seed)
                if view.noisy and self.noise:
                    draws = generator("noise", self.seed, view.sample_id, view.number)
                    pixels = add_noise(pixels, self.noise, style.mean, style.std, draws)
                images.append(pixels)
        return torch.stack(images)

    def facts(self) -> list[object]:
        """Plain values that fix the pixels of a view, for the name of a cache."""
        return [self.augmentation, self.noise, self.seed]


def add_noise(
    pixels: torch.Tensor,
    deviation: float,
    mean: Sequence[float],
    std: Sequence[float],
    draws: torch.Generator,
) -> torch.Tensor:
    """Gaussian noise on a normalised image (paper, appendix J), clipped to the pixel range.

    Args:
        pixels: normalised, [3, S, S].
        deviation: standard deviation on pixels from 0 to 1.
        mean: of the normalisation, per channel.
        std: of the normalisation, per channel.
        draws: generator of the noise.
    """
    shift, scale = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    noise = deviation * torch.randn(pixels.shape, generator=draws)
    return ((pixels * scale + shift + noise).clamp(0, 1) - shift) / scale
