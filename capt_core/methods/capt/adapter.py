"""The Diff-Manner Adapter (eq. 9, 10, 13): local detail added to patch tokens."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from capt_core.errors import CaptError
from capt_core.methods.capt.context import global_vector, unsummed_attention
from capt_core.methods.capt.settings import Adapter

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


def add_local_detail(
    patches: torch.Tensor, context: torch.Tensor, kernel: torch.Tensor, alpha: torch.Tensor
) -> torch.Tensor:
    """Eq. 10: X <- X + alpha DWConv2D(X-hat).

    Args:
        patches: X, [L, N, D], N a square number of patches in raster order.
        context: X-hat, [L, N, D].
        kernel: depth-wise kernel [D, 1, k, k], k odd.
        alpha: weight of each image, [L].

    Returns:
        [L, N, D].
    """
    images, count, width = patches.shape
    side = math.isqrt(count)
    grid = context.transpose(1, 2).reshape(images, width, side, side)
    detail = functional.conv2d(grid, kernel, padding=kernel.shape[-1] // 2, groups=width)
    return patches + alpha[:, None, None] * detail.flatten(2).transpose(1, 2)


class DiffMannerAdapter(nn.Module):
    """Adapter of one block, at the block's input.

    The kernel starts at zero, so that the model starts as the frozen base model.

    Args:
        width: D of the tower.
        patch_count: N, must be a square number.
        settings: the `adapter` section. `parts: global` keeps one number per channel in place
            of a kernel: the global vector is the same at every patch.

    Raises:
        CaptError: the patch grid is not square.
    """

    def __init__(self, width: int, patch_count: int, settings: Adapter) -> None:
        super().__init__()
        if math.isqrt(patch_count) ** 2 != patch_count:
            raise CaptError(
                f"the Diff-Manner Adapter needs a square patch grid, the tower has {patch_count} "
                "patches; choose a backbone with square images"
            )
        self.patch_count = patch_count
        self.settings = settings
        size = 1 if settings.parts == "global" else settings.kernel_size
        self.kernel = nn.Parameter(torch.zeros(width, 1, size, size))

    def forward(
        self,
        tokens: torch.Tensor,
        alpha: torch.Tensor,
        norm: nn.Module,
        attention: nn.MultiheadAttention,
    ) -> torch.Tensor:
        """Add local detail to the patch tokens at a block's input.

        Args:
            tokens: [L, 1 + N + P, D]: class token, patches, visual prompts if there are any.
            alpha: [L].
            norm: the block's first LayerNorm.
            attention: the block's attention.

        Returns:
            Same shape; only the patch tokens change.
        """
        end = 1 + self.patch_count
        normalised = norm(tokens[:, :end])
        context = self._context(attention, normalised[:, 0], normalised[:, 1:])
        patches = add_local_detail(tokens[:, 1:end], context, self.kernel, alpha)
        return torch.cat([tokens[:, :1], patches, tokens[:, end:]], dim=1)

    def _context(
        self, attention: nn.MultiheadAttention, class_token: torch.Tensor, patches: torch.Tensor
    ) -> torch.Tensor:
        """X-hat of eq. 10 in the reading that the settings ask for, [L, N, D]."""
        if self.settings.parts == "local":
            return patches
        if self.settings.parts == "global":
            return global_vector(attention, class_token, patches)[:, None].expand_as(patches)
        if self.settings.form == "unsummed":
            return unsummed_attention(attention, class_token, patches)
        return patches + global_vector(attention, class_token, patches)[:, None]
