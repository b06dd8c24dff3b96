"""The methods by name, and the image encoder of those that change the image tower."""

from __future__ import annotations

from collections.abc import Callable

import torch

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.methods.capt.model import model_from_state
from capt_core.methods.saved import SavedTensors

METHODS = ("clip", "clip_prompts", "linear_probe", "coop", "residual", "capt")

ImageEncoder = Callable[[torch.Tensor], torch.Tensor]


def check_method(method: str) -> None:
    """Refuse an unknown method.

    Raises:
        CaptError: the message lists the known ones.
    """
    if method not in METHODS:
        raise CaptError(f"unknown method {method!r}; known: {', '.join(METHODS)}")


def image_encoder(saved: SavedTensors, backbone: Backbone) -> ImageEncoder:
    """Function from image tensors [B, 3, S, S] to features [B, d] of a saved CAPT model."""
    model = model_from_state(backbone.clip.visual, saved.tensors, saved.facts["shape"])
    return model.to(backbone.device).eval()
