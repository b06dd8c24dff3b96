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


def with_experts(
    tokens: torch.Tensor, prompts: Sequence[torch.Tensor] | torch.Tensor, block: int
) -> torch.Tensor:
    """Tokens [B, 1 + A + N, D] as a block takes them, its own prompts added to the A experts.

    Args:
        tokens: that came out of the block before: class token, experts, patches.
        prompts: of the blocks behind the first, each [A, D].
        block: number of the block, from 0.
    """
    if not 0 < block <= len(prompts):
        return tokens
    own = prompts[block - 1].to(tokens.dtype)
    end = 1 + len(own)
    return torch.cat([tokens[:, :1], tokens[:, 1:end] + own, tokens[:, end:]], dim=1)


def encode_image_with_experts(
    tower: Any,
    images: torch.Tensor,
    experts: torch.Tensor,
    deep: Sequence[torch.Tensor] | torch.Tensor,
) -> torch.Tensor:
    """Image features of the class token and of expert tokens behind it (TAP).

    Args:
        tower: `clip.visual`, an open_clip vision transformer.
        images: [B, 3, S, S].
        experts: tokens behind the class token, without positions, [A, D].
        deep: what is added to them at the input of each block but the first, each [A, D].

    Returns:
        Features [B, 1 + A, d], not normalised, the class token's first.
    """
    embedded = tower._embeds(images)
    first = tower.ln_pre(experts).to(embedded.dtype).expand(len(embedded), -1, -1)
    tokens = torch.cat([embedded[:, :1], first, embedded[:, 1:]], dim=1)
    for index, block in enumerate(tower.transformer.resblocks):
        tokens = block(with_experts(tokens, deep, index))
    chosen = tokens[:, : 1 + len(experts)]
    # Each is pooled as the only token of a sequence would be: as a class token.
    features = pooled_feature(tower, chosen.flatten(0, 1)[:, None])
    return features.reshape(-1, chosen.shape[1], features.shape[-1])


def encode_image_with_prompts(
    tower: Any, images: torch.Tensor, prompts: Sequence[torch.Tensor] | torch.Tensor
) -> torch.Tensor:
    """Image features of a tower with learned prompts.

    Args:
        tower: `clip.visual`, an open_clip vision transformer.
        images: [B, 3, S, S].
        prompts: by depth, each [P, D]: the first are appended behind the patches, the j-th replace
            them at the input of block j.

    Returns:
        Features [B, d], not normalised; gradients reach `prompts`.
    """
    tokens = appended(tower, tower._embeds(images), prompts[0])
    for index, block in enumerate(tower.transformer.resblocks):
        tokens = block(replaced(tokens, prompts, index))
    return pooled_feature(tower, tokens)
