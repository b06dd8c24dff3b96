"""Which tokens of an image Spotlighter looks at (token selection)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from capt_core.errors import CaptError
from capt_core.methods.attention import attention_weights, check_attention, projected_query
from capt_core.methods.image_tower import ImageTower
from capt_core.methods.prompting.image import check_image_tower

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


def image_tokens(tower: ImageTower, images: torch.Tensor) -> ImageTokens:
    """All token features of images [B, 3, S, S], those of prompts left out."""
    visual, last = tower.visual, len(tower.blocks) - 1
    count = int(visual.positional_embedding.shape[0])
    tokens = tower.embed(images)
    for block in range(last):
        tokens = tower.through(tower.entering(tokens, block), block)
    tokens = tower.entering(tokens, last)
    normalised, attention = tower.blocks[last].ln_1(tokens), tower.blocks[last].attn
    query, to_key, _, _ = projected_query(attention, normalised[:, 0])
    weights = attention_weights(query, to_key, normalised).mean(dim=1)[:, 1:count]
    features = visual.ln_post(tower.through(tokens, last)[:, :count])
    return ImageTokens(features if visual.proj is None else features @ visual.proj, weights)


def projected_tokens(projector: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Token features [B, 1 + N, e] through a projector, all of them as one batch, [B, 1 + N, d]."""
    rows: torch.Tensor = projector(features.flatten(0, 1))
    return rows.view(*features.shape[:2], -1)


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
