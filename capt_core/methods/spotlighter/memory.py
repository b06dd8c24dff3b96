"""Spotlighter's memory bank, and how texts and images are refined by it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from capt_core.learning.randomness import draw_seed, generator
from capt_core.methods.prompting.fitted import unit

Keep = torch.Tensor
"""Which attention heads of each image are kept, [B, H] of bool."""


def memory_start(size: int, width: int, seed: int) -> torch.Tensor:
    """Slots before the first step, uniform on [0, 1], at unit length, [m, d]."""
    return unit(torch.rand(size, width, generator=generator("memory", seed)))


def updated_memory(slots: torch.Tensor, tokens: torch.Tensor, momentum: float) -> torch.Tensor:
    """Slots moved towards the tokens that are most similar to each, at unit length.

    M_i <- momentum M_i + (1 - momentum) sum_r (q_ri / max_r' q_r'i) x_r over the rows r whose most
    similar slot is i, q the softmax of x M^T over all rows; slots without rows stay.

    Args:
        slots: M, [m, d].
        tokens: x, unit length, [R, d].
        momentum: share that stays.

    Returns:
        [m, d].
    """
    similarity = tokens @ slots.T
    shares = similarity.softmax(dim=0)
    weights = shares / shares.amax(dim=0)
    own = functional.one_hot(similarity.argmax(dim=1), len(slots)).to(tokens)
    moved = momentum * slots + (1 - momentum) * (own * weights).T @ tokens
    return functional.normalize(torch.where(own.any(dim=0)[:, None], moved, slots), dim=1)


def kept_heads(rows: int, heads: int, dropout: float, *purpose: str | int) -> Keep:
    """A draw of heads that are kept with probability 1 - `dropout`, [B, H]."""
    return torch.rand(rows, heads, generator=generator(*purpose)) >= dropout


class SingleKeyAttention(nn.Module):
    """Multi-head attention of each image to one key of its own.

    The softmax over a single key is 1, so that the result is out(value(v)), and query and key are
    moved by weight decay alone; they are kept because the method has them.

    Args:
        width: d, of all that it takes and gives.
        heads: H, a divisor of d.
        dropout: probability that a head of an image is left out while training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keep: Keep | None = None
    ) -> torch.Tensor:
        """Queries, keys and values [B, d] to [B, d]; `keep` is None outside of training."""
        queries, keys, values = (
            layer(given).unflatten(1, (self.heads, -1))
            for layer, given in ((self.query, query), (self.key, key), (self.value, value))
        )
        scores = (queries * keys).sum(dim=2, keepdim=True) / queries.shape[2] ** 0.5
        weights = scores.softmax(dim=2)  # over the one key
        if keep is not None:
            weights = weights * keep[:, :, None].to(weights) / (1 - self.dropout)
        attended: torch.Tensor = self.out((weights * values).flatten(1))
        return attended


class Memory(nn.Module):
    """Slots of token features that training passed by, part of the model and its checkpoints.

    Args:
        width: d of the features.
        size: m, number of slots.
        momentum: see `updated_memory`.
        refinement: weight of what the memory adds to a text (alpha).
        heads: of the attention of images.
        dropout: see `SingleKeyAttention`.
        seed: of the random starts.
    """

    def __init__(
        self,
        width: int,
        size: int,
        momentum: float,
        refinement: float,
        heads: int,
        dropout: float,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.refinement = refinement
        self.slots: torch.Tensor
        self.updates: torch.Tensor
        self.register_buffer("slots", memory_start(size, width, seed))
        self.register_buffer("updates", torch.tensor(0))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw_seed("memory layers", seed))
            self.extractor = nn.Linear(2 * width, width, bias=False)
            self.attention = SingleKeyAttention(width, heads, dropout)

    def read(self, features: torch.Tensor) -> torch.Tensor:
        """Mean of the slots by their similarity to features [N, d], [N, d]."""
        return (unit(features) @ self.slots.T).softmax(dim=1) @ self.slots

    def refined_texts(self, texts: torch.Tensor) -> torch.Tensor:
        """Unit-length texts [C, d] with what the memory holds of them, [C, d], not normalised."""
        told: torch.Tensor = self.extractor(torch.cat([texts, self.read(texts)], dim=1))
        return self.refinement * told + texts

    @torch.no_grad()
    def update(self, tokens: torch.Tensor) -> None:
        """Move the slots towards a step's projected tokens [R, d], of any length."""
        # Not in place: the step's gradients still need the slots that were read.
        self.slots = updated_memory(self.slots, unit(tokens.detach()), self.momentum)
        self.updates = self.updates + 1

    def next_keep(self, rows: int, seed: int) -> Keep:
        """Heads that are kept in the next step for B images, [B, H]."""
        attention, step = self.attention, int(self.updates)
        drawn = kept_heads(rows, attention.heads, attention.dropout, "heads", seed, step)
        return drawn.to(self.slots.device)
