"""An image tower block by block, as a fitted method has it, for another that starts there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from capt_core.methods.capt.context import global_vector
from capt_core.methods.prompting.image import appended, pooled_feature, replaced


class ImageTower:
    """An open_clip vision transformer; `encode` runs its parts one after the other.

    A method that changes the tower gives a subclass, so that its features can be had from here
    bit for bit, and something can be put between two blocks.

    Args:
        visual: `clip.visual`, frozen.
    """

    def __init__(self, visual: Any) -> None:
        self.visual = visual

    @property
    def blocks(self) -> Sequence[Any]:
        """Residual attention blocks with `ln_1`, `attn`, `ln_2` and `mlp`."""
        found: Sequence[Any] = self.visual.transformer.resblocks
        return found

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, S, S] to tokens [B, 1 + N + P, D]: class token, patches, then prompts."""
        tokens: torch.Tensor = self.visual._embeds(images)
        return tokens

    def entering(self, tokens: torch.Tensor, block: int) -> torch.Tensor:
        """Tokens that came out of the block before, as a block takes them; same shape."""
        return tokens

    def through(self, tokens: torch.Tensor, block: int) -> torch.Tensor:
        """What a block makes of the tokens of `entering`; same shape."""
        found: torch.Tensor = self.blocks[block](tokens)
        return found

    def class_token(self, tokens: torch.Tensor, block: int) -> torch.Tensor:
        """The class token of `through` alone, [B, 1, D], up to rounding."""
        return class_token_block(self.blocks[block], tokens)

    def feed_forward(self, block: int) -> nn.Module:
        """What a block's feed-forward part makes of the class token, which it looks at alone."""
        found: nn.Module = self.blocks[block].mlp
        return found

    def head(self, tokens: torch.Tensor) -> torch.Tensor:
        """Features [B, d], not normalised, of what came out of the last block."""
        return pooled_feature(self.visual, tokens)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, S, S] to features [B, d], not normalised."""
        return self.head(self.tokens(images))

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, S, S] to the tokens that come out of the last block, [B, 1 + N + P, D]."""
        tokens = self.embed(images)
        for block in range(len(self.blocks)):
            tokens = self.through(self.entering(tokens, block), block)
        return tokens


class PromptedTower(ImageTower):
    """A tower with learned prompt tokens (visual prompt tuning, Jia et al., ECCV 2022).

    Args:
        visual: `clip.visual`, frozen.
        prompts: by depth, each [P, D]: the first are appended behind the patches, the j-th replace
            them at the input of block j. Gradients reach them.
    """

    def __init__(self, visual: Any, prompts: Sequence[torch.Tensor] | torch.Tensor) -> None:
        super().__init__(visual)
        self.prompts = prompts

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return appended(self.visual, super().embed(images), self.prompts[0])

    def entering(self, tokens: torch.Tensor, block: int) -> torch.Tensor:
        return replaced(tokens, self.prompts, block)


def class_token_block(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Output of an open_clip block for the class token alone, [L, 1, D]."""
    normalised = block.ln_1(tokens)
    attended = global_vector(block.attn, normalised[:, 0], normalised)[:, None]
    out = tokens[:, :1] + block.ls_1(attended)
    result: torch.Tensor = out + block.ls_2(block.mlp(block.ln_2(out)))
    return result
