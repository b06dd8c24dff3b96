"""Procedural textures: a benchmark of thirty classes that needs no download.

Each image is a pure function of (seed, split, class, index). Every class has two or three
renderers; forty per cent of the images show a second, confusable texture through the first.
"""

from capt_core.data.proctex.classes import (
    CLASS_NAMES,
    COARSE_WORDS,
    GROUPS,
    NEIGHBOURS,
    TEMPLATE,
    coarse_word,
)
from capt_core.data.proctex.drawing import IMAGE_SIZE
from capt_core.data.proctex.images import (
    COLOURS,
    PRETRAIN_SPLIT,
    SPLITS,
    ImageFacts,
    render_image,
    render_with_facts,
)

__all__ = [
    "CLASS_NAMES",
    "COARSE_WORDS",
    "COLOURS",
    "GROUPS",
    "IMAGE_SIZE",
    "NEIGHBOURS",
    "PRETRAIN_SPLIT",
    "SPLITS",
    "TEMPLATE",
    "ImageFacts",
    "coarse_word",
    "render_image",
    "render_with_facts",
]
