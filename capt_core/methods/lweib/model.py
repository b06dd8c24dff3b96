"""CLIP with convolutions in both towers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.methods.image_tower import ImageTower
from capt_core.methods.lweib.convolutions import AdaptedActivation, AdaptedNorm, Convolution
from capt_core.methods.method import Method
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.towers import TunedTowers, tower_blocks


class EnrichedTower(ImageTower):
    """A tower with the convolutions.

    Args:
        visual: with them.
        frozen: without them.
    """

    def __init__(self, visual: Any, frozen: Any) -> None:
        super().__init__(visual)
        self.frozen = ImageTower(frozen)

    def feed_forward(self, block: int) -> nn.Module:
        # Convolutions over patches give the class token nothing.
        return self.frozen.feed_forward(block)


class EnrichedClip(TunedTowers):
    """CLIP with two depth-wise convolutions in every block of both towers.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        weights: of the convolutions by `convolution_names`: [W, 1, 3] before the attention of a
            text block, [4 W, 1, 3] in its feed-forward part, [..., 1, 3, 3] in an image block.
        class_vectors: the classes' classifiers, see `sentence_mean`; classes without one are
            compared with `TEMPLATE`.
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        weights: Mapping[str, torch.Tensor],
        class_vectors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        settings, grid = method.settings, tuple(backbone.clip.visual.grid_size)
        convolutions: dict[str, Convolution] = {}
        parts: dict[nn.Module, nn.Module] = {}
        for tower, blocks in tower_blocks(backbone.clip).items():
            of_grid = grid if tower == "vision" else None
            for index, block in enumerate(blocks):
                names = convolution_names(tower, index)
                attention, mlp = (
                    Convolution(weights[name], of_grid, settings.scale, settings.fast_factor)
                    for name in names
                )
                parts[block.ln_1] = AdaptedNorm(block.ln_1, attention)
                parts[block.mlp.gelu] = AdaptedActivation(block.mlp.gelu, mlp)
                convolutions |= dict(zip(names, (attention, mlp), strict=True))
        super().__init__(method, backbone, parts, class_vectors)
        self.convolutions = nn.ModuleDict(convolutions)

    def image_tower(self) -> EnrichedTower:
        return EnrichedTower(self.tuned.clip.visual, self.backbone.clip.visual)

    @contextmanager
    def fast(self, blocks: Mapping[str, Sequence[bool]]) -> Iterator[None]:
        """Within the block, fast learning in the given blocks, slow in the others.

        Args:
            blocks: of `text` and `vision`, whether each block is fast; both its convolutions are.
        """
        chosen: list[Any] = [
            self.convolutions[name]
            for tower, flags in blocks.items()
            for index, flag in enumerate(flags)
            if flag
            for name in convolution_names(tower, index)
        ]
        for each in chosen:
            each.fast = True
        try:
            yield
        finally:
            for each in chosen:
                each.fast = False

    def classifier(self, tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        """What images are compared with: see `sentence_mean`.

        Args:
            tokens: ids of each class's sentences, each [S, L].

        Returns:
            [C, d].
        """
        means = []
        for rows in tokens:
            with self.backbone.precision():
                encoded = self.encode_tokens(rows)
            means.append(sentence_mean(encoded))
        return torch.stack(means)


def convolution_names(tower: str, block: int) -> tuple[str, str]:
    """Names of a block's convolutions, before its attention and within its feed-forward part."""
    return f"{tower}_block{block}_attention", f"{tower}_block{block}_mlp"


def sentence_mean(features: torch.Tensor) -> torch.Tensor:
    """The mean of the unit-length features of a class's sentences, [S, d] to unit length [d]."""
    return functional.normalize(unit(features).mean(dim=0), dim=-1)
