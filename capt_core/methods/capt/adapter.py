"""The Diff-Manner Adapter (eq. 9, 10, 13): local detail added to patch tokens."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from capt_core.errors import CaptError

MIN_COSINE = 1e-4


def dynamic_weight(cosines: torch.Tensor, scale: float, exponent: float) -> torch.Tensor:
    """Eq. 13: alpha_i = s c_i^gamma.

    Args:
        cosines: c, cosine between an anchor and its representative, any shape; clamped to
            [1e-4, 1], so that negative cosines have a power.
        scale: s.
        exponent: gamma.
    """
    return scale * cosines.clamp(MIN_COSINE, 1.0) ** exponent


def global_vector(
    attention: nn.MultiheadAttention, class_token: torch.Tensor, patches: torch.Tensor
) -> torch.Tensor:
    """Eq. 9: MultiHead(Q = class token, K = V = patches), all already layer-normalised.

    Args:
        attention: batch-first multi-head attention of width D.
        class_token: [L, D].
        patches: [L, N, D].

    Returns:
        g, [L, D].
    """
    query = class_token[:, None]
    attended: torch.Tensor = attention(query, patches, patches, need_weights=False)[0]
    return attended[:, 0]


def add_local_detail(
    patches: torch.Tensor,
    normalised: torch.Tensor,
    global_: torch.Tensor,
    kernel: torch.Tensor,
    alpha: torch.Tensor,
) -> torch.Tensor:
    """Eq. 10: X <- X + alpha DWConv2D(X-hat), with X-hat_j = LN(X_j) + g (reading a).

    Args:
        patches: X, [L, N, D], N a square number of patches in raster order.
        normalised: LN(X), [L, N, D].
        global_: g of eq. 9, [L, D].
        kernel: depth-wise kernel [D, 1, k, k], k odd.
        alpha: weight of each image, [L].

    Returns:
        [L, N, D].
    """
    images, count, width = patches.shape
    side = math.isqrt(count)
    grid = (normalised + global_[:, None]).transpose(1, 2).reshape(images, width, side, side)
    detail = functional.conv2d(grid, kernel, padding=kernel.shape[-1] // 2, groups=width)
    return patches + alpha[:, None, None] * detail.flatten(2).transpose(1, 2)


class DiffMannerAdapter(nn.Module):
    """Adapter of one block; uses the block's own frozen LayerNorm and attention.

    The kernel starts at zero, so that the model starts as the frozen base model.

    Args:
        width: D of the tower.
        patch_count: N, must be a square number.
        kernel_size: k, must be odd.

    Raises:
        CaptError: the patch grid is not square or the kernel size is even.
    """

    def __init__(self, width: int, patch_count: int, kernel_size: int) -> None:
        super().__init__()
        if math.isqrt(patch_count) ** 2 != patch_count:
            raise CaptError(
                f"the Diff-Manner Adapter needs a square patch grid, the tower has {patch_count} "
                "patches; choose a backbone with square images"
            )
        if kernel_size % 2 == 0:
            raise CaptError(f"train.kernel_size must be odd, found {kernel_size}")
        self.kernel = nn.Parameter(torch.zeros(width, 1, kernel_size, kernel_size))

    def forward(
        self, tokens: torch.Tensor, alpha: torch.Tensor, norm: nn.Module, attention: nn.Module
    ) -> torch.Tensor:
        """Add local detail to the patch tokens at a block's input.

        Args:
            tokens: [L, 1 + N, D], the class token first.
            alpha: [L].
            norm: the block's first LayerNorm.
            attention: the block's attention.

        Returns:
            [L, 1 + N, D]; the class token is unchanged.
        """
        assert isinstance(attention, nn.MultiheadAttention)
        normalised = norm(tokens)
        g = global_vector(attention, normalised[:, 0], normalised[:, 1:])
        patches = add_local_detail(tokens[:, 1:], normalised[:, 1:], g, self.kernel, alpha)
        return torch.cat([tokens[:, :1], patches], dim=1)
