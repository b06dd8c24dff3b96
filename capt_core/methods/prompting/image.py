"""Learned prompts in an image tower (visual prompt tuning, Jia et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from capt_core.errors import CaptError


def check_image_tower(tower: Any) -> None:
    """Refuse image towers that prompt tokens cannot be put into.

    Raises:
        CaptError: not an open_clip vision transformer with a class token.
    """
    parts = ("transformer", "class_embedding", "grid_size", "_embeds", "_pool")
    if not all(hasattr(tower, part) for part in parts) or tower.pool_type != "tok":
        raise CaptError(
            f"the image tower {type(tower).__name__} is no vision transformer with a class token; "
            "choose a ViT backbone such as ViT-B-16"
        )


def appended(tower: Any, tokens: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    """Tokens of `tower._embeds`, [B, 1 + N, D], with prompts [P, D] behind the patches.

    Prompts have no positional embedding but pass the layer norm before the blocks.
    """
    normalised = tower.ln_pre(prompts).to(tokens.dtype)
    return torch.cat([tokens, normalised.expand(tokens.shape[0], -1, -1)], dim=1)


def replaced(
    tokens: torch.Tensor, prompts: Sequence[torch.Tensor] | torch.Tensor, block: int
) -> torch.Tensor:
    """Tokens [B, 1 + N + P, D] as a block takes them, its own prompts in place of the last P.

    Args:
        tokens: that came out of the block before.
        prompts: by depth, each [P, D]; blocks beyond let pass what came out of them.
        block: number of the block, from 0.
    """
    if not 0 < block < len(prompts):
        return tokens
    own = prompts[block].to(tokens.dtype).expand(tokens.shape[0], -1, -1)
    return torch.cat([tokens[:, : -own.shape[1]], own], dim=1)


def pooled_feature(tower: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Features [B, d] of the tokens that the last block gives, not normalised."""
    pooled: torch.Tensor = tower._pool(tokens)[0]
    return pooled if tower.proj is None else pooled @ tower.proj
