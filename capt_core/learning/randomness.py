"""Random numbers that depend on what they are for, not on what was drawn before.

A training step's draws are then the same whether the run was interrupted or not, and on every
one of several processes.
"""

from __future__ import annotations

import hashlib

import torch


def draw_seed(*purpose: str | int) -> int:
    """A 63-bit seed of a purpose such as ``("order", seed, epoch)``."""
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose."""
    return torch.Generator().manual_seed(draw_seed(*purpose))
