"""Which tokens of an image Spotlighter looks at (token selection)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from capt_core.errors import CaptError
from capt_core.methods.attention import attention_weights, check_attention, projected_query
from capt_core.methods.prompting.image import appended, check_image_tower, replaced

SELECTED, TOP = 5, 2
"""Patches that are selected, and how many of them form the upper group."""

Selection = Literal["corrected", "released"]
"""`corrected`: the selected patches. `released`: the token before each, as the authors' code has it
(patch j is token j + 1; without the 1, patch 0 stands for the class token once more).
"""


def check_tower(tower: Any) -> None:
    """Refuse image towers whose tokens cannot be selected by attention.

    Raises:
        CaptError: no vision transformer with a class token that is projected like the patches, or
            fewer than five patches.
    """
    check_image_tower(tower)
    if tower.attn_pool is not None:
        raise CaptError(
            f"the image tower {type(tower).__name__} pools by attention, so its tokens have no "
            "features of their own; choose a plain ViT backbone such as ViT-B-16"
        )
    check_attention(tower.transformer.resblocks, tower, "token selection")
    patches = tower.positional_embedding.shape[0] - 1
    if patches < SELECTED:
        raise CaptError(
            f"token selection needs {SELECTED} patches, the image tower has {patches}; choose a "
            "backbone with smaller patches"
        )


@dataclass(frozen=True)
class ImageTokens:
    """What the last block of an image tower gives.

    Attributes:
        features: of the class token and the patches, projected, not normalised, [B, 1 + N, d].
        attention: of the class token to the patches in the last block, mean over heads, [B, N].
    """

    features: torch.Tensor
    attention: torch.Tensor


def image_tokens(
    tower: Any, images: torch.Tensor, prompts: Sequence[torch.Tensor] | torch.Tensor = ()
) -> ImageTokens:
    """All token features of images, those of prompts left out.

    Args:
        tower: `clip.visual`, an open_clip vision transformer.
        images: [B, 3, S, S].
        prompts: by depth, each [P, D], see `PromptedClip`; none leaves the tower as it is.
    """
    tokens = tower._embeds(images)
    count = tokens.shape[1]
    if len(prompts):
        tokens = appended(tower, tokens, prompts[0])
    *blocks, last = tower.transformer.resblocks
    for index, block in enumerate(blocks):
        tokens = block(replaced(tokens, prompts, index))
    tokens = replaced(tokens, prompts, len(blocks))
    normalised = last.ln_1(tokens)
    query, to_key, _, _ = projected_query(last.attn, normalised[:, 0])
    attention = attention_weights(query, to_key, normalised).mean(dim=1)[:, 1:count]
    tokens = tower.ln_post(last(tokens)[:, :count])
    return ImageTokens(tokens if tower.proj is None else tokens @ tower.proj, attention)


def projected_tokens(projector: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Token features [B, 1 + N, e] through a projector, all of them as one batch, [B, 1 + N, d]."""
    rows: torch.Tensor = projector(features.flatten(0, 1))
    return rows.unflatten(0, features.shape[:2])


def selected_tokens(attention: torch.Tensor, selection: Selection) -> torch.Tensor:
    """Indices of the tokens of the most attended patches, descending, [B, 5].

    Args:
        attention: of `ImageTokens`, [B, N].
        selection: which token stands for a patch.
    """
    patches = attention.topk(SELECTED, dim=1).indices
    return patches + 1 if selection == "corrected" else patches


def token_rows(tokens: torch.Tensor, selected: torch.Tensor) -> dict[str, torch.Tensor]:
    """Rows that are classified beside the image, image by image, by the name of their group.

    Args:
        tokens: projected, the class token first, [B, 1 + N, d].
        selected: of `selected_tokens`, [B, 5].

    Returns:
        `top7`: class token, selected ones and the mean of all, [7 B, d]; `top2`: the same with the
        first two of the selected, [4 B, d]; `low3`: with the last three, [5 B, d].
    """
    images = torch.arange(len(tokens), device=tokens.device)[:, None]
    chosen = tokens[images, selected]
    mean = tokens.mean(dim=1, keepdim=True)

    def rows(part: torch.Tensor) -> torch.Tensor:
        return torch.cat([tokens[:, :1], part, mean], dim=1).flatten(0, 1)

    return {"top7": rows(chosen), "top2": rows(chosen[:, :TOP]), "low3": rows(chosen[:, TOP:])}
