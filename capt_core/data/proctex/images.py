"""From a texture to a photograph of it: placement, a second texture, colours, light and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from capt_core.data.proctex.base_textures import BASE_RENDERERS
from capt_core.data.proctex.classes import CLASS_NAMES, NEIGHBOURS
from capt_core.data.proctex.drawing import (
    IMAGE_SIZE,
    Canvas,
    Plane,
    Renderer,
    plane,
    smooth_noise,
)
from capt_core.data.proctex.novel_textures import NOVEL_RENDERERS

SPLITS: Final = ("train", "val", "test")
PRETRAIN_SPLIT: Final = "pretrain"

RENDERERS: Final[dict[str, tuple[Renderer, ...]]] = BASE_RENDERERS | NOVEL_RENDERERS
"""Two or three renderers of each class, by class name."""

_SEEN_IN_PRETRAINING: Final = 2  # a third renderer appears in train, val and test only
_STREAMS: Final = {"train": 0, "val": 1, "test": 2, PRETRAIN_SPLIT: 3}
_NAMESPACE: Final = 0x70726F63  # keeps these streams apart from other users of the same seed

_MIXED_SHARE: Final = 0.4
_DOMINANT_SHARE: Final = 0.7
_LEAST_CONTRAST: Final = 0.3  # below this difference in luminance textures cannot be made out

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (200, 40, 40),
    "orange": (235, 135, 35),
    "yellow": (235, 215, 60),
    "green": (60, 150, 60),
    "blue": (50, 85, 200),
    "purple": (130, 60, 170),
    "pink": (240, 140, 180),
    "brown": (125, 80, 45),
    "grey": (128, 128, 128),
    "white": (240, 240, 240),
    "black": (25, 25, 25),
}
ORIENTATIONS: Final = ("vertical", "horizontal", "diagonal")
SIZE_LIMITS: Final = (0.95, 1.2)  # scales below are called small, above large

_COLOUR_NAMES: Final = tuple(COLOURS)
_LUMINANCE: Final = np.array([0.3, 0.59, 0.11])
_ACROSS, _DOWN = np.meshgrid(
    np.arange(IMAGE_SIZE, dtype=np.float32) - (IMAGE_SIZE - 1) / 2,
    np.arange(IMAGE_SIZE, dtype=np.float32) - (IMAGE_SIZE - 1) / 2,
)


@dataclass(frozen=True)
class ImageFacts:
    """What was drawn: the truth that captions and analyses draw on.

    Attributes:
        class_id: label of the texture.
        variant: which of the class's renderers drew it.
        neighbour_id: label of the texture laid over it, or None.
        neighbour_weight: opacity of that texture, 0 when there is none, at most 0.5.
        foreground: name of the colour of the marks.
        background: name of the colour between them.
        orientation: how the texture's lines run, one of :data:`ORIENTATIONS`.
        scale: factor on the texture's lengths, 0.75 to 1.5.
        contrast: share of the colour difference kept, 0.6 to 1.
        blur: standard deviation of the blur, pixels.
        noise: standard deviation of the sensor noise, on a scale of 0 to 1.
    """

    class_id: int
    variant: int
    neighbour_id: int | None
    neighbour_weight: float
    foreground: str
    background: str
    orientation: str
    scale: float
    contrast: float
    blur: float
    noise: float


def render_image(seed: int, split: str, class_id: int, index: int) -> NDArray[np.uint8]:
    """One image of the benchmark, RGB, (64, 64, 3); see :func:`render_with_facts`."""
    return render_with_facts(seed, split, class_id, index)[0]


def render_with_facts(
    seed: int, split: str, class_id: int, index: int
) -> tuple[NDArray[np.uint8], ImageFacts]:
    """One image of the benchmark and what it shows.

    The four arguments determine the image; which others are drawn, in what order and in how many
    processes, makes no difference.

    Args:
        seed: non-negative seed of the whole benchmark.
        split: ``train``, ``val`` or ``test``; ``pretrain`` for the images the embedded model
            learned from, which leave out the third renderer of the classes that have three.
        class_id: label, an index into :data:`CLASS_NAMES`.
        index: number of the image within its split and class, from 0.

    Returns:
        The image, RGB, uint8 of shape (64, 64, 3), and its facts.

    Raises:
        ValueError: an argument is out of range.
    """
    if split not in _STREAMS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(_STREAMS)}")
    if not 0 <= class_id < len(CLASS_NAMES):
        raise ValueError(f"class_id {class_id} is outside 0..{len(CLASS_NAMES) - 1}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    entropy = (_NAMESPACE, seed, _STREAMS[split], class_id, index)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))

    name = CLASS_NAMES[class_id]
    pretraining = split == PRETRAIN_SPLIT
    canvas, orientation = _place(rng, name)
    variant = _draw_variant(rng, name, pretraining)
    texture = RENDERERS[name][variant](rng, canvas)
    neighbour, weight = None, 0.0
    if rng.random() < _MIXED_SHARE:
        neighbour, weight = _draw_neighbour(rng, name), rng.uniform(0.2, 0.5)
        other = RENDERERS[neighbour][_draw_variant(rng, neighbour, pretraining)](rng, canvas)
        texture = plane((1 - weight) * texture + weight * other)

    foreground, background, paints = _draw_colours(rng)
    contrast = rng.uniform(0.6, 1.0)
    blur = rng.uniform(0.0, 0.9) if rng.random() < 0.6 else 0.0
    noise = rng.uniform(0.0, 0.035)
    picture = _photograph(rng, texture, paints, contrast, blur, noise)
    return picture, ImageFacts(
        class_id=class_id,
        variant=variant,
        neighbour_id=None if neighbour is None else CLASS_NAMES.index(neighbour),
        neighbour_weight=weight,
        foreground=foreground,
        background=background,
        orientation=orientation,
        scale=canvas.scale,
        contrast=contrast,
        blur=blur,
        noise=noise,
    )


def _place(rng: np.random.Generator, name: str) -> tuple[Canvas, str]:
    """Scale, rotate and slightly warp the coordinates."""
    scale = math.exp(rng.uniform(math.log(0.75), math.log(1.5)))
    orientation = ORIENTATIONS[int(rng.integers(3))]
    angle = {"vertical": 0.0, "horizontal": math.pi / 2, "diagonal": math.pi / 4}[orientation]
    if orientation == "diagonal" and rng.random() < 0.5:
        angle = -angle
    if name == "stratified":  # layers lie flat
        orientation, angle = "horizontal", 0.0
    angle += rng.uniform(-0.22, 0.22)
    x = _ACROSS * math.cos(angle) + _DOWN * math.sin(angle)
    y = _DOWN * math.cos(angle) - _ACROSS * math.sin(angle)
    if rng.random() < 0.6:
        reach = rng.uniform(0, 1.2)
        x = x + reach * smooth_noise(rng, 6)
        y = y + reach * smooth_noise(rng, 6)
    return Canvas(plane(x), plane(y), scale), orientation


def _draw_variant(rng: np.random.Generator, name: str, pretraining: bool) -> int:
    count = len(RENDERERS[name])
    return int(rng.integers(min(count, _SEEN_IN_PRETRAINING) if pretraining else count))


def _draw_neighbour(rng: np.random.Generator, name: str) -> str:
    first, *others = NEIGHBOURS[name]
    if rng.random() < _DOMINANT_SHARE:
        return first
    return others[int(rng.integers(len(others)))]


def _draw_colours(
    rng: np.random.Generator,
) -> tuple[str, str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Two colour names and their jittered RGB values on a scale of 0 to 1, apart in luminance."""
    while True:
        front, back = (int(i) for i in rng.choice(len(_COLOUR_NAMES), 2, replace=False))
        names = _COLOUR_NAMES[front], _COLOUR_NAMES[back]
        ink, paper = (
            np.clip(np.array(COLOURS[n]) + rng.normal(0, 14, 3), 0, 255) / 255 for n in names
        )
        if abs(float((ink - paper) @ _LUMINANCE)) >= _LEAST_CONTRAST:
            return (*names, (ink, paper))


def _photograph(
    rng: np.random.Generator,
    texture: Plane,
    paints: tuple[NDArray[np.float64], NDArray[np.float64]],
    contrast: float,
    blur: float,
    noise: float,
) -> NDArray[np.uint8]:
    ink, paper = paints
    middle = (ink + paper) / 2
    ink, paper = middle + contrast * (ink - middle), middle + contrast * (paper - middle)
    picture = plane(paper) + plane(ink - paper) * texture[..., None]

    strength, towards = rng.uniform(0, 0.25), rng.uniform(0, 2 * math.pi)
    ramp = (_ACROSS * math.cos(towards) + _DOWN * math.sin(towards)) / (IMAGE_SIZE / 2)
    picture = picture * plane(1 + strength * ramp)[..., None]
    if blur > 0.3:  # a weaker blur does not change a pixel visibly
        picture = gaussian_filter(picture, (blur, blur, 0), truncate=3.0)
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    picture = picture + noise * grain + 0.015 * smooth_noise(rng, 1.0)[..., None]
    pixels: NDArray[np.uint8] = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels
