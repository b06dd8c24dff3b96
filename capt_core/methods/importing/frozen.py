"""A checkpoint's copies of the frozen CLIP, held against the backbone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError, shown
from capt_core.methods.importing.checkpoint import Checkpoint
from capt_core.methods.prompting.text import text_tower

IMAGE, TEXT, SCALE = "image_encoder.", "text_encoder.", "logit_scale"

_RELATIVE, _ABSOLUTE = 0.02, 1e-5
"""Copies are rounded to half precision, and PromptSRC's average over epochs rounds them again."""


def relative_distance(copy: torch.Tensor, original: torch.Tensor) -> float:
    """``|copy - original|`` over ``|original|``, Euclidean, beyond an absolute rounding."""
    distance = float((copy - original).norm())
    rounding = _ABSOLUTE * math.sqrt(original.numel())
    return max(0.0, distance - rounding) / max(float(original.norm()), 1e-12)


def compare_copies(checkpoint: Checkpoint, backbone: Backbone) -> list[str]:
    """Compare every copy of a frozen weight with the backbone's, learned prompts left out.

    Returns:
        Names of the copies.

    Raises:
        CaptError: the checkpoint was trained on another backbone or other weights.
    """
    clip = backbone.clip
    text = {name: v for name, v in text_tower(clip).state_dict().items() if name[:7] != "visual."}
    originals: Mapping[str, torch.Tensor] = {
        **{f"{IMAGE}{name}": value for name, value in clip.visual.state_dict().items()},
        **{f"{TEXT}{name}": value for name, value in text.items()},
        SCALE: clip.logit_scale.detach(),
    }
    copies = [
        name
        for name in checkpoint.tensors
        if name.startswith((IMAGE, TEXT, SCALE)) and name not in checkpoint.taken
    ]
    for name in copies:
        original = originals.get(name)
        stored = checkpoint.tensors[name]
        if original is None or tuple(original.shape) != stored.shape:
            raise CaptError(
                f"{checkpoint.where}: {shown(name)} is no weight of {backbone.identity}, or of "
                "another shape; set backbone.name and backbone.checkpoint to those that it was "
                "trained on"
            )
        if not original.is_floating_point():
            continue
        apart = relative_distance(checkpoint.load(name).cpu(), original.detach().float().cpu())
        if apart > _RELATIVE:
            raise CaptError(
                f"{checkpoint.where}: its copy of {name} differs from {backbone.identity} by "
                f"{apart:.0%}; set backbone.checkpoint to the weights that it was trained on"
            )
    return copies
