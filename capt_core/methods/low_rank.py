"""Low-rank updates of frozen projections (LoRA, Hu et al., ICLR 2022).

`peft` adapts a packed query, key and value projection of torch's attention by one update of rank r
for all three, without dropout, and the output projection along with it; CLIP-LoRA has an update of
its own for each of the three.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from capt_core.learning.randomness import draw_seed, kept_by_count


class LowRankUpdate(nn.Module):
    """The update s B A of a frozen linear map; B starts at zero, so that nothing is changed.

    Args:
        width: of what the map takes.
        out: of what it gives.
        rank: r, of A [r, width] and B [out, r].
        alpha: s = alpha / sqrt(r), as CLIP-LoRA's code has it (its paper: alpha / r).
        seed: of A.
    """

    def __init__(self, width: int, out: int, rank: int, alpha: float, seed: int = 0) -> None:
        super().__init__()
        self.scale = alpha / math.sqrt(rank)
        self.down = nn.Parameter(torch.empty(rank, width))
        self.up = nn.Parameter(torch.zeros(out, rank))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw_seed("low rank", seed))
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def weight(self) -> torch.Tensor:
        """What is added to the frozen weight, [out, width]."""
        return self.scale * self.up @ self.down

    @torch.no_grad()
    def interpolate(self, share: float) -> None:
        """Scale what is added: 1 leaves it, 0 would give the frozen map."""
        self.up.mul_(share)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """What is added to the outputs [..., out] of inputs [..., width]."""
        down, up = (each.to(inputs.device) for each in (self.down, self.up))
        return self.scale * functional.linear(functional.linear(inputs, down), up)


class LowRankAttention(nn.Module):
    """A frozen self-attention whose query, key and value projections have low-rank updates.

    It stands in the place of the attention of an open_clip block.

    Args:
        attention: frozen, batch-first, with packed projections; no part of this module's state.
        rank: see `LowRankUpdate`.
        alpha: likewise.
        dropout: probability that an input of an update is left out while training.
        seed: of the random starts.
    """

    def __init__(
        self, attention: nn.MultiheadAttention, rank: int, alpha: float, dropout: float, seed: int
    ) -> None:
        super().__init__()
        self._attention = (attention,)  # a tuple keeps the frozen weights out of the state
        self.dropout = dropout
        self.key: int | None = None
        """Of the inputs that are left out; None leaves out none, and merges the updates."""
        width = attention.embed_dim
        self.updates = nn.ModuleDict(
            {
                part: LowRankUpdate(width, width, rank, alpha, draw_seed(part, seed))
                for part in ("query", "key", "value")
            }
        )

    def interpolate(self, share: float) -> None:
        """`LowRankUpdate.interpolate` of all three updates."""
        for part in self.updates:
            self._update(part).interpolate(share)

    def merged_weight(self) -> torch.Tensor:
        """The packed projection with its updates, [3 D, D]."""
        frozen = self._attention[0].in_proj_weight
        added = torch.cat([self._update(part).weight() for part in self.updates])
        return frozen + added.to(frozen)

    def merged(self) -> nn.MultiheadAttention:
        """Torch's own attention with the updates in its weights; the rest is the frozen one's."""
        weight = nn.Parameter(self.merged_weight().detach(), requires_grad=False)
        found = copy.copy(self._attention[0])
        found._parameters = {**found._parameters, "in_proj_weight": weight}
        return found

    def projected(self, tokens: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values [B, L, 3 D] of tokens [B, L, D]."""
        attention = self._attention[0]
        if self.key is None:
            return functional.linear(tokens, self.merged_weight(), attention.in_proj_bias)
        plain = functional.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
        added = [self._update(part)(self._some(tokens, part)) for part in self.updates]
        return plain + torch.cat(added, dim=-1)

    def forward(
        self,
        tokens: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """What torch's attention gives for tokens [B, L, D] that attend to themselves."""
        assert keys is tokens
        assert values is tokens
        attention = self._attention[0]
        projected, (batch, length, width) = self.projected(tokens), tokens.shape
        heads = projected.view(batch, length, 3, attention.num_heads, width // attention.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mask = None if attn_mask is None else attn_mask.to(query.dtype)
        if mask is not None and mask.dim() == 3:  # of each text and head
            mask = mask.view(batch, attention.num_heads, length, length)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attention.out_proj(mixed.transpose(1, 2).flatten(2)), None

    def _update(self, part: str) -> LowRankUpdate:
        update: Any = self.updates[part]
        assert isinstance(update, LowRankUpdate)
        return update

    def _some(self, tokens: torch.Tensor, part: str) -> torch.Tensor:
        """Tokens with some entries left out and the others made up for it."""
        assert self.key is not None
        keep = kept_by_count(tokens.shape, self.dropout, draw_seed(part, self.key), tokens.device)
        return tokens * keep / (1 - self.dropout)
