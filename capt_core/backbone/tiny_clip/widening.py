"""A wider image tower that computes what a trained one does, to go on training from.

Function-preserving widening after Chen, Goodfellow and Shlens, "Net2Net: Accelerating Learning
via Knowledge Transfer" (ICLR 2016): every unit is there twice, and what reads it takes a share
from either copy. Shares differ at random, or both copies would learn the same for ever.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


def widen(tower: nn.Module, trained: Mapping[str, torch.Tensor], seed: int) -> None:
    """Set a tower's values so that it computes what a tower of half its width does.

    Features get more dimensions where the tower has more: the first are the trained tower's, the
    others random combinations of the same units.

    Args:
        tower: an open_clip vision transformer; changed in place.
        trained: tensors of one of half its width, and of as many blocks, by name.
        seed: seed of the shares and of further feature dimensions.

    Raises:
        ValueError: a tensor is neither as large as the trained one nor twice as large, save the
            projection's number of features.
    """
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: _widened(name, trained[name], own, generator)
        for name, own in tower.state_dict().items()
    }
    tower.load_state_dict(values)


def copied(values: torch.Tensor, dim: int, parts: int = 1) -> torch.Tensor:
    """Every unit along a dimension twice, within each of its equal parts."""
    return torch.cat([torch.cat([p, p], dim) for p in values.chunk(parts, dim)], dim)


def shared(values: torch.Tensor, dim: int, generator: torch.Generator) -> torch.Tensor:
    """Weights of units that are there twice: two shares that add up to the weights (of 2 w)."""
    noise = torch.randn(values.shape, generator=generator) * values.std() / 2
    return torch.cat([values / 2 + noise, values / 2 - noise], dim)


def _widened(
    name: str, old: torch.Tensor, own: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Values of one tensor: [out, in] weights, [.., w] vectors, or the projection [w, features]."""
    if name == "proj":
        extra = own.shape[1] - old.shape[1]
        more = torch.randn(len(old), extra, generator=generator) * old.std()
        return shared(torch.cat([old, more], 1), 0, generator)
    if own.shape == old.shape:
        return old
    stacked = 3 if "in_proj" in name else 1  # query, key and value lie in one matrix
    weight = old.ndim == 2 and name.endswith("weight")
    new = shared(old, 1, generator) if weight else old
    dim = 0 if weight or name.startswith("conv1") else -1
    new = copied(new, dim, stacked)
    if new.shape != own.shape:
        raise ValueError(f"{name} is {tuple(own.shape)}, not {tuple(new.shape)}")
    return new
