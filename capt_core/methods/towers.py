"""A frozen CLIP with some of its parts replaced, which leaves the CLIP itself as it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from capt_core.backbone.encoding import check_lengths, encode_texts
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.methods.classes import Classes
from capt_core.methods.image_tower import ImageTower
from capt_core.methods.method import Fitted, Method
from capt_core.methods.prompting.image import check_image_tower
from capt_core.methods.prompting.text import text_blocks

TEMPLATE = "a photo of a {}."
"""What names stand in where a method has one template for every data set."""


def with_parts(module: nn.Module, parts: Mapping[nn.Module, nn.Module]) -> Any:
    """A module with some of the modules below it replaced.

    Args:
        module: left as it is, and shared: what holds no replaced part is the very same module, and
            a copy of what does holds the same parameters and buffers.
        parts: replacements by what they replace.
    """
    if module in parts:
        return parts[module]
    children = {
        name: None if child is None else with_parts(child, parts)
        for name, child in module._modules.items()
    }
    if all(children[name] is child for name, child in module._modules.items()):
        return module
    changed = copy.copy(module)
    changed._modules = children
    return changed


def tower_blocks(clip: Any) -> dict[str, Sequence[Any]]:
    """The residual attention blocks of both towers, by `text` and `vision`.

    Raises:
        CaptError: a tower is not open_clip's own transformer, or images have no class token.
    """
    check_image_tower(clip.visual)
    towers: dict[str, Sequence[Any]] = {
        "text": text_blocks(clip),
        "vision": clip.visual.transformer.resblocks,
    }
    for name, blocks in towers.items():
        for block in blocks:
            norms = [getattr(block, part, None) for part in ("ln_1", "ln_2")]
            plain = all(isinstance(norm, nn.LayerNorm) for norm in norms)
            if not plain or not hasattr(getattr(block, "mlp", None), "gelu"):
                raise CaptError(
                    f"the blocks {type(block).__name__} of the {name} tower have no layer norms "
                    "and feed-forward part of CLIP's kind; choose a ViT backbone such as ViT-B-16"
                )
    return towers


class TunedTowers(Fitted):
    """CLIP with parts of both towers replaced, and class texts that follow any names.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        parts: what replaces parts of `backbone.clip`; not all of it need be trained.
        class_vectors: see `Fitted`.
    """

    frozen_tower = False

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        parts: Mapping[nn.Module, nn.Module],
        class_vectors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(method, backbone, class_vectors)
        # In a tuple as the backbone is, so that no frozen tensor enters the state.
        self._tuned = (replace(backbone, clip=with_parts(backbone.clip, parts)),)

    @property
    def tuned(self) -> Backbone:
        """The backbone with the parts."""
        return self._tuned[0]

    def image_tower(self) -> ImageTower:
        return ImageTower(self.tuned.clip.visual)

    def tokens(self, names: Sequence[str]) -> torch.Tensor:
        """Token ids [C, L] of class names in `TEMPLATE`, on the backbone's device.

        Raises:
            CaptError: a name is too long for the backbone.
        """
        texts = [TEMPLATE.format(name) for name in names]
        check_lengths(texts, self.backbone)
        return self.backbone.tokenizer(texts).to(self.backbone.device)

    def encode_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids [C, L] to features [C, d], not normalised."""
        features: torch.Tensor = self.tuned.clip.encode_text(tokens)
        return features

    def readable_prompts(self, classes: Classes) -> list[str]:
        return [TEMPLATE.format(name) for name in classes.prompt_names]

    def class_texts(self, classes: Classes) -> torch.Tensor:
        texts = encode_texts(self.readable_prompts(classes), self.tuned)
        return self.with_vectors(classes, texts)

    def keep_vectors(self, vectors: Mapping[str, torch.Tensor]) -> None:
        """Compare images with these vectors [d] of unit length, by class name; see `Fitted`."""
        self.vector_names, self.class_vectors = tuple(vectors), torch.stack([*vectors.values()])
