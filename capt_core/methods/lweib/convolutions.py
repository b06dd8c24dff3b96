"""Depth-wise convolutions of both towers, whose weights learn at full gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

KERNEL = 3


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor, factor: float) -> torch.Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * context.factor, None


def scaled_gradient(values: torch.Tensor, factor: float) -> torch.Tensor:
    """The very values, whose gradient is multiplied by a factor on its way back to them."""
    if not torch.is_grad_enabled():
        return values
    scaled: torch.Tensor = _ScaledGradient.apply(values, factor)  # type: ignore[no-untyped-call]
    return scaled


def text_convolution(tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Depth-wise convolution along a text, over its padding too.

    Args:
        tokens: [B, L, W].
        weight: [W, 1, 3].

    Returns:
        [B, L, W]; beyond both ends there are zeros.
    """
    rows = tokens.transpose(1, 2)
    return functional.conv1d(rows, weight, padding=KERNEL // 2, groups=len(weight)).transpose(1, 2)


def patch_convolution(
    tokens: torch.Tensor, weight: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """Depth-wise convolution over the grid of the patches; 0 for the class token.

    Args:
        tokens: the class token, then patches row by row, [B, 1 + N, W]; N may be 0.
        weight: [W, 1, 3, 3].
        grid: rows and columns of the patches.

    Returns:
        [B, 1 + N, W]; around the grid there are zeros.
    """
    first, patches = tokens[:, :1], tokens[:, 1:]
    if not patches.shape[1]:
        return torch.zeros_like(tokens)
    image = torch.unflatten(patches.transpose(1, 2), 2, grid)
    mixed = functional.conv2d(image, weight, padding=KERNEL // 2, groups=len(weight))
    return torch.cat([torch.zeros_like(first), mixed.flatten(2).transpose(1, 2)], dim=1)


class Convolution(nn.Module):
    """r DW(x), a depth-wise convolution in one place of a block, to be added to x.

    Args:
        weight: [W, 1, 3] of a text tower, [W, 1, 3, 3] of an image tower.
        grid: rows and columns of the image tower's patches.
        scale: r while slow, which is the only one outside training.
        fast_factor: r is this many times as large while fast.
    """

    def __init__(
        self, weight: torch.Tensor, grid: tuple[int, int] | None, scale: float, fast_factor: float
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.grid, self.slow_scale, self.fast_scale = grid, scale, scale * fast_factor
        self.fast = False

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, L, W] to what is added to them, of the same shape.

        The weights' gradient is that of DW, not of r DW; the tokens' is the true one.
        """
        scale = self.fast_scale if self.fast else self.slow_scale
        weight = scaled_gradient(self.weight.to(tokens.device), 1 / scale)
        if self.grid is None:
            return scale * text_convolution(tokens, weight)
        mixed: torch.Tensor = patch_convolution(tokens, weight, self.grid)
        return scale * mixed


class AdaptedNorm(nn.Module):
    """a + r DW(a) for the a = LN(x) that enters the attention."""

    def __init__(self, norm: nn.Module, convolution: Convolution) -> None:
        super().__init__()
        self.norm, self.convolution = norm, convolution

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, L, W] of the block to those of its attention."""
        normalised: torch.Tensor = self.norm(tokens)
        added: torch.Tensor = self.convolution(normalised)
        return normalised + added.to(normalised.dtype)


class AdaptedActivation(nn.Module):
    """The feed-forward part's activation of h + r DW(h), h being its hidden layer."""

    def __init__(self, activation: nn.Module, convolution: Convolution) -> None:
        super().__init__()
        self.activation, self.convolution = activation, convolution

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden layer [B, L, 4 W] to its activation."""
        activated: torch.Tensor = self.activation(hidden + self.convolution(hidden))
        return activated
