"""Architectures and weights of the tiny CLIPs: the default backbone and its teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import load_file
from torch import nn

from capt_core.backbone.identity import EMBEDDED, EMBEDDED_WEIGHTS, TINY_CLIP

if TYPE_CHECKING:
    from open_clip.model import CLIP

IMAGE_SIZE: Final = 64
IMAGE_MEAN: Final = (0.50, 0.45, 0.45)
IMAGE_STD: Final = (0.25, 0.25, 0.25)
_WIDEST_STEM: Final = 128


def read_config(name: str = TINY_CLIP) -> dict[str, Any]:
    """The packaged open_clip configuration of a model: embed_dim, vision_cfg, text_cfg."""
    file = EMBEDDED[name] / "config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config


def build_model(
    name: str = TINY_CLIP, *, patch_dropout: float = 0.0, vocabulary_size: int | None = None
) -> CLIP:
    """The architecture with random weights, in training mode.

    An open_clip ``CLIP`` whose patch embedding is four small convolutions in place of one large
    one; a vision transformer this small learns several times faster from them. Everything after
    it is open_clip's own.

    Args:
        name: one of :data:`capt_core.backbone.identity.EMBEDDED`.
        patch_dropout: share of patches dropped in training mode.
        vocabulary_size: number of tokens, when it is not the packaged one.
    """
    from capt_core.backbone.light_open_clip import open_clip

    config = read_config(name)
    vision = {**config["vision_cfg"], "patch_dropout": patch_dropout}
    text = dict(config["text_cfg"])
    if vocabulary_size is not None:
        text["vocab_size"] = vocabulary_size
    model: CLIP = open_clip.CLIP(embed_dim=config["embed_dim"], vision_cfg=vision, text_cfg=text)
    model.visual.conv1 = _patch_embedding(vision["width"], vision["patch_size"])
    return model


def load_model(name: str = TINY_CLIP, weights: Path | None = None) -> CLIP:
    """A pretrained model, float32, in evaluation mode, on the CPU.

    Args:
        name: one of :data:`capt_core.backbone.identity.EMBEDDED`.
        weights: safetensors file to load instead of the packaged one.

    Raises:
        RuntimeError: the file's tensors do not fit the architecture.
    """
    model = build_model(name)
    tensors = load_file(weights or EMBEDDED[name] / EMBEDDED_WEIGHTS)
    model.load_state_dict(
        {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    )
    return model.eval()


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Pixels 0 to 255, (n, 3, 64, 64), to what the image tower expects, float32."""
    mean = torch.tensor(IMAGE_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGE_STD, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255 - mean) / std


def _patch_embedding(width: int, patch_size: int) -> nn.Sequential:
    """(n, 3, side, side) to (n, width, side / 8, side / 8), by three strides of two.

    The strides are 128 channels wide at most: they work on many more places than the blocks.
    """
    if patch_size != 8:
        raise ValueError(
            f"the patch embedding halves three times, so patch_size is 8, not {patch_size}"
        )
    layers: list[nn.Module] = []
    stem = min(width, _WIDEST_STEM)
    for inputs, outputs in ((3, stem // 4), (stem // 4, stem // 2), (stem // 2, stem)):
        layers += [
            nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.GELU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(stem, width, kernel_size=1))
