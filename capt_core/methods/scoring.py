"""Class scores of the methods, rebuilt from what `train` saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.methods.clip import class_logits
from capt_core.methods.coop import context_features
from capt_core.methods.residual import residual_features
from capt_core.methods.saved import SavedTensors

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class ClassTexts:
    """What there is to know of the classes.

    Attributes:
        names: as they stand in a sentence, in class order.
        features: text features that images are compared with, unit length, [C, d].
    """

    names: Sequence[str]
    features: torch.Tensor


def _clip(_: Tensors, images: torch.Tensor, texts: ClassTexts, backbone: Backbone) -> torch.Tensor:
    return class_logits(images, texts.features, backbone.logit_scale)


def _linear_probe(
    tensors: Tensors, images: torch.Tensor, _: ClassTexts, __: Backbone
) -> torch.Tensor:
    return images @ tensors["weight"].T + tensors["bias"]


def _coop(
    tensors: Tensors, images: torch.Tensor, texts: ClassTexts, backbone: Backbone
) -> torch.Tensor:
    learned = context_features(tensors["context"], texts.names, backbone)
    return class_logits(images, learned, backbone.logit_scale)


def _residual(
    tensors: Tensors, images: torch.Tensor, texts: ClassTexts, backbone: Backbone
) -> torch.Tensor:
    moved = residual_features(tensors, images)
    return class_logits(moved, texts.features, backbone.logit_scale)


_SCORERS: dict[str, Callable[[Tensors, torch.Tensor, ClassTexts, Backbone], torch.Tensor]] = {
    "clip": _clip,
    "clip_prompts": _clip,
    "linear_probe": _linear_probe,
    "coop": _coop,
    "residual": _residual,
}

CLASS_TEXTS = "class_texts"
"""Name of the saved tensor that holds what images are compared with, [C, d]; only where that is
not the class prompts alone."""

DESCRIBED_METHODS = ("clip_prompts", "residual", "capt")
"""Methods that difference prompts may take part in the class texts of."""

FEATURE_METHODS = tuple(_SCORERS)
"""Methods that leave the image tower as it is and score its stored features."""


def feature_logits(
    saved: SavedTensors, images: torch.Tensor, texts: ClassTexts, backbone: Backbone
) -> torch.Tensor:
    """Logits [N, C] over all classes of one of `FEATURE_METHODS`.

    Args:
        saved: what `train` wrote.
        images: frozen features, unit length, [N, d].
        texts: of all classes.
        backbone: the frozen CLIP.

    Raises:
        CaptError: the saved model lacks a tensor of its method.
    """
    method = saved.facts["method"]
    try:
        return _SCORERS[method](saved.tensors, images, texts, backbone)
    except KeyError as error:
        raise CaptError(
            f"the saved model of {method} has no tensor {error}; "
            f"run: capt-stage train --method {method}"
        ) from error
