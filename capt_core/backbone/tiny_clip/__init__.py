"""A CLIP of 1.6 million parameters, pretrained on procedural textures: the embedded default.

It exists so that everything can run with no network and no data. It knows nothing but textures.
"""

from capt_core.backbone.tiny_clip.model import (
    IMAGE_MEAN,
    IMAGE_SIZE,
    IMAGE_STD,
    build_model,
    load_model,
    normalise,
    read_config,
)
from capt_core.backbone.tiny_clip.tokenizer import Tokenizer

__all__ = [
    "IMAGE_MEAN",
    "IMAGE_SIZE",
    "IMAGE_STD",
    "Tokenizer",
    "build_model",
    "load_model",
    "normalise",
    "read_config",
]
