"""What the attention of a frozen block gives each token, from its packed projections."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

from capt_core.errors import CaptError


def check_attention(blocks: Iterable[object], tower: object, user: str) -> None:
    """Refuse blocks whose attention is not torch's own with packed projections.

    Args:
        blocks: of an open_clip tower.
        tower: named in the message.
        user: what reads the projections, likewise.

    Raises:
        CaptError: attention of another kind, or not batch-first.
    """

    def packed(attention: object) -> bool:
        if not isinstance(attention, nn.MultiheadAttention) or not attention.batch_first:
            return False
        return bool(attention._qkv_same_embed_dim)

    if not all(packed(getattr(block, "attn", None)) for block in blocks):
        raise CaptError(
            f"the tower {type(tower).__name__} has attention of a kind that {user} cannot reuse; "
            "choose a plain ViT backbone such as ViT-B-16"
        )


def projected_query(
    attention: nn.MultiheadAttention, query: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scaled queries [L, H, e]; by head, key and value weights [H, e, D] and value bias [H, e].

    Args:
        attention: of width D with H heads of e dimensions.
        query: [L, D].
    """
    heads, width = attention.num_heads, attention.embed_dim
    to_query, to_key, to_value = attention.in_proj_weight.chunk(3)
    given: torch.Tensor | None = attention.in_proj_bias
    bias = to_query.new_zeros(3 * width) if given is None else given
    query_bias, _, value_bias = bias.chunk(3)
    projected = functional.linear(query, to_query, query_bias) / (width // heads) ** 0.5
    return (
        projected.view(query.shape[0], heads, -1),
        to_key.view(heads, -1, width),
        to_value.view(heads, -1, width),
        value_bias.view(heads, -1),
    )


def attention_weights(
    query: torch.Tensor, to_key: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """How much one query attends to each token, [L, H, N].

    With a single query no token needs a key of its own: the query is carried to the tokens through
    the key projection. The key bias adds the same to all tokens of a head, which the softmax takes
    away.

    Args:
        query: of `projected_query`, [L, H, e].
        to_key: likewise, [H, e, D].
        tokens: layer-normalised, [L, N, D].
    """
    carried = torch.einsum("lhe,hed->lhd", query, to_key)
    return torch.einsum("lhd,lnd->lhn", carried, tokens).softmax(dim=-1)
