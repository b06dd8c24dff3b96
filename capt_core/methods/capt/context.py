"""X-hat of eq. 10: how eq. 9's attention reaches each patch.

Eq. 9 has one query, so it gives one vector, while eq. 10 convolves a map. Two readings:
(a) the vector is added to every patch, (b) each patch keeps its own term of the attention's sum.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from capt_core.methods.attention import attention_weights, projected_query


def global_vector(
    attention: nn.MultiheadAttention, class_token: torch.Tensor, patches: torch.Tensor
) -> torch.Tensor:
    """Eq. 9: MultiHead(Q = class token, K = V = patches), all already layer-normalised.

    With a single query no patch needs a key or a value of its own: the query is carried to the
    patches through the key projection, and their weighted mean through the value projection. The
    result is that of the attention itself up to rounding, at a cost of N D H in place of N D D.

    Args:
        attention: batch-first multi-head attention of width D with H heads.
        class_token: [L, D].
        patches: [L, N, D].

    Returns:
        g, [L, D].
    """
    query, to_key, to_value, value_bias = projected_query(attention, class_token)
    weights = attention_weights(query, to_key, patches)
    means = torch.einsum("lhn,lnd->lhd", weights, patches)
    values = torch.einsum("lhd,hed->lhe", means, to_value) + value_bias
    attended: torch.Tensor = attention.out_proj(values.flatten(1))
    return attended


def unsummed_attention(
    attention: nn.MultiheadAttention, class_token: torch.Tensor, patches: torch.Tensor
) -> torch.Tensor:
    """Eq. 9 before its sum over patches (reading b): a_j v_j of every head, projected.

    The output bias is shared out evenly, so that the sum over patches is eq. 9 exactly.

    Args:
        attention: batch-first multi-head attention of width D with H heads.
        class_token: [L, D].
        patches: [L, N, D].

    Returns:
        [L, N, D].
    """
    query, to_key, to_value, value_bias = projected_query(attention, class_token)
    weights = attention_weights(query, to_key, patches)
    values = torch.einsum("lnd,hed->lnhe", patches, to_value) + value_bias
    terms = weights.transpose(1, 2)[..., None] * values  # [L, N, H, e]
    output = attention.out_proj
    projected = functional.linear(terms.flatten(2), output.weight)
    return projected if output.bias is None else projected + output.bias / patches.shape[1]
