"""An image tower with vision expert tokens, one for each attribute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from capt_core.methods.prompting.image import pooled_feature


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
    """Image features of the class token and of the expert tokens behind it.

    Args:
        tower: `clip.visual`, an open_clip vision transformer.
        images: [B, 3, S, S].
        experts: tokens behind the class token, without positions, [A, D].
        deep: what is added to them at the input of each block but the first, each [A, D].

    Returns:
        Features [B, 1 + A, d], not normalised, the class token's first.
    """
    embedded = tower._embeds(images)
    first = tower.ln_pre(experts).to(embedded.dtype).expand(embedded.shape[0], -1, -1)
    tokens = torch.cat([embedded[:, :1], first, embedded[:, 1:]], dim=1)
    for index, block in enumerate(tower.transformer.resblocks):
        tokens = block(with_experts(tokens, deep, index))
    chosen = tokens[:, : 1 + len(experts)]
    # Each is pooled as the only token of a sequence would be: as a class token.
    features = pooled_feature(tower, chosen.flatten(0, 1)[:, None])
    return features.reshape(-1, chosen.shape[1], features.shape[-1])
