"""Random numbers that depend on what they are for, not on what was drawn before.

A training step's draws are then the same whether the run was interrupted or not, and on every
one of several processes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch


def draw_seed(*purpose: str | int) -> int:
    """A 63-bit seed of a purpose such as ``("order", seed, epoch)``."""
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose."""
    return torch.Generator().manual_seed(draw_seed(*purpose))


def kept_by_count(
    shape: Sequence[int], dropout: float, seed: int, device: torch.device
) -> torch.Tensor:
    """Entries that dropout keeps, the same on every device, without a copy to it.

    Each entry's number is scrambled by the finaliser of SplitMix64 (Steele et al., OOPSLA 2014).

    Args:
        shape: of what is kept.
        dropout: probability that an entry is left out.
        seed: of the draw.
        device: where it is made.

    Returns:
        bool, of the shape.
    """
    mixed = torch.arange(math.prod(shape), device=device) * _signed(0x9E3779B97F4A7C15) + seed
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        # torch's shift repeats the sign; SplitMix64's brings in zeros.
        shifted = (mixed >> shift) & ((1 << (64 - shift)) - 1)
        mixed = (mixed ^ shifted) * _signed(factor)
    return ((mixed >> 11) & ((1 << 53) - 1)).reshape(tuple(shape)) >= int(dropout * 2**53)


def _signed(word: int) -> int:
    """A 64-bit word as the number in two's complement that it stands for."""
    return word - (1 << 64) if word >> 63 else word
