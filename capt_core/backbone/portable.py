"""A backbone inside another file: what tells it apart, its weights, and the way back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import BaseModel, Field, model_validator
from torch import nn

from capt_core import params
from capt_core.backbone.architecture import build, check_square, outline
from capt_core.backbone.identity import EMBEDDED
from capt_core.backbone.loading import Backbone, load_tokenizer, looks_untrained
from capt_core.data.images import Preprocess
from capt_core.device import choose_device
from capt_core.errors import CaptError, shown

_Colour = tuple[float, float, float]


class Architecture(BaseModel):
    """What builds a backbone beside its weights, as plain values.

    Attributes:
        name: of the open_clip model, or of the embedded one.
        quick_gelu: its activation is QuickGELU, whatever its configuration says.
        config: its open_clip configuration.
        size, mean, std: of `Preprocess`.
    """

    name: str = Field(max_length=200)
    quick_gelu: bool
    config: dict[str, Any]
    size: int = Field(ge=1, le=10_000)
    mean: _Colour
    std: _Colour

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError("mean and std are no finite numbers")
        return self


def architecture_of(backbone: Backbone) -> Architecture:
    """The architecture of a loaded backbone."""
    name = backbone.identity.partition("@")[0]
    preprocess = backbone.preprocess
    return Architecture(
        name=name,
        quick_gelu=_uses_quick_gelu(backbone.clip),
        config=_configuration(name),
        size=preprocess.size,
        mean=preprocess.mean,
        std=preprocess.std,
    )


def rebuilt(
    architecture: Architecture,
    tensors: Mapping[str, torch.Tensor],
    identity: str,
    runtime: params.Runtime,
) -> Backbone:
    """The backbone that `architecture_of` described, with the values of its state dict.

    Only models that open_clip knows by name are built, so a file decides neither about code nor
    about memory.

    Args:
        architecture: what to build.
        tensors: state dict of the CLIP, fp32.
        identity: name and digest of the weights it was loaded from.
        runtime: device and precision.

    Raises:
        CaptError: open_clip does not know the model or knows another one of its name, the tensors
            are not the model's, or the device is unavailable.
    """
    name = architecture.name
    wanted = outline(name).state_dict()  # refuses unknown names
    if _configuration(name) != architecture.config:
        raise CaptError(
            f"made with another configuration of {name} than open_clip has here; install the "
            "version of open_clip_torch that it was made with"
        )
    odd = wanted.keys() ^ tensors.keys()
    odd |= {
        key
        for key in wanted.keys() & tensors.keys()
        if (wanted[key].shape, wanted[key].dtype) != (tensors[key].shape, tensors[key].dtype)
    }
    if odd:
        raise CaptError(
            f"does not hold the weights of {name}: {len(odd)} tensors are missing, unknown or of "
            f"another shape, such as {shown(min(odd))}"
        )
    device, autocast = choose_device(runtime)
    clip = build(name, quick_gelu=architecture.quick_gelu)
    # Copies into the model's own memory: sums differ in their last bits where a file's tensors are
    # not aligned.
    clip.load_state_dict(tensors)
    clip.eval().requires_grad_(False)
    if check_square(name, clip.visual) != architecture.size:
        raise CaptError(f"is for images of {architecture.size} pixels, which {name} does not take")
    return Backbone(
        identity=identity,
        clip=clip.to(device),
        tokenizer=load_tokenizer(params.Backbone(name=name)),
        preprocess=Preprocess(architecture.size, architecture.mean, architecture.std),
        device=device,
        autocast=autocast,
        untrained=looks_untrained(clip),
        source=identity,
    )


def _uses_quick_gelu(clip: nn.Module) -> bool:
    from capt_core.backbone.light_open_clip import open_clip

    return any(isinstance(module, open_clip.transformer.QuickGELU) for module in clip.modules())


def _configuration(name: str) -> dict[str, Any]:
    """The open_clip configuration of a known model, as JSON gives it back."""
    if name in EMBEDDED:
        from capt_core.backbone import tiny_clip

        return tiny_clip.read_config(name)
    from capt_core.backbone.light_open_clip import open_clip

    config: dict[str, Any] = json.loads(json.dumps(open_clip.get_model_config(name)))
    return config
