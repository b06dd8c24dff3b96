"""Independent computations in float64, and the small models that the tests of CAPT look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from capt_core.methods.capt.model import CaptModel
from capt_core.methods.capt.settings import Adapter, Experts
from capt_core.methods.image_tower import ImageTower, PromptedTower
from tests import paper_preset

Array = npt.NDArray[np.float64]

TEXT_WIDTH = 24  # of the small CLIP's joint space


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape: int, seed: int) -> torch.Tensor:
    """Unit-length rows in float64."""
    return functional.normalize(normal(*shape, seed=seed), dim=-1)


def random_attention(
    seed: int, width: int = 8, heads: int = 2, bias: bool = True
) -> nn.MultiheadAttention:
    attention = nn.MultiheadAttention(
        width, heads, bias=bias, batch_first=True, dtype=torch.float64
    )
    fill(attention, seed)
    return attention.eval()


def fill(module: nn.Module, seed: int) -> None:
    """Give every parameter random values."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=1000 * seed + number))


def attention_terms(attention: nn.MultiheadAttention, query: Array, keys: Array) -> Array:
    """What each key adds to one query's attention, before the output bias.

    Query [D] and keys [N, D] to [N, D], head by head.
    """
    width, heads = attention.embed_dim, attention.num_heads
    size = width // heads
    wq, wk, wv = np.split(attention.in_proj_weight.detach().numpy(), 3)
    given: torch.Tensor | None = attention.in_proj_bias
    bias = np.zeros(3 * width) if given is None else given.detach().numpy()
    bq, bk, bv = np.split(bias, 3)
    q, k, v = wq @ query + bq, keys @ wk.T + bk, keys @ wv.T + bv
    terms = np.zeros_like(keys)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = k[:, part] @ q[part] / np.sqrt(size)
        shares = np.exp(scores - scores.max())
        terms[:, part] = (shares / shares.sum())[:, None] * v[:, part]
    projected: Array = terms @ attention.out_proj.weight.detach().numpy().T
    return projected


def output_bias(attention: nn.MultiheadAttention) -> Array:
    bias: torch.Tensor | None = attention.out_proj.bias
    return np.zeros(attention.embed_dim) if bias is None else bias.detach().numpy()


def attend(attention: nn.MultiheadAttention, query: Array, keys: Array) -> Array:
    """Multi-head attention of one query [D] over keys [N, D]."""
    summed: Array = attention_terms(attention, query, keys).sum(axis=0) + output_bias(attention)
    return summed


def context(
    settings: Adapter, attention: nn.MultiheadAttention, class_token: Array, patches: Array
) -> Array:
    """X-hat of eq. 10 for one image: class token [D] and patches [N, D] to [N, D]."""
    if settings.parts == "local":
        return patches
    g = attend(attention, class_token, patches)
    if settings.parts == "global":
        return np.tile(g, (len(patches), 1))
    if settings.form == "broadcast":
        return patches + g
    share = output_bias(attention) / len(patches)
    return attention_terms(attention, class_token, patches) + share


def convolve(grid: Array, kernel: Array) -> Array:
    """Depth-wise convolution with zero padding: grid [side, side, D], kernel [D, k, k]."""
    side, width = grid.shape[0], grid.shape[-1]
    size = kernel.shape[-1]
    reach = size // 2
    out = np.zeros((side, side, width))
    for row in range(side):
        for column in range(side):
            for i in range(size):
                for j in range(size):
                    r, c = row + i - reach, column + j - reach
                    if 0 <= r < side and 0 <= c < side:
                        out[row, column] += grid[r, c] * kernel[:, i, j]
    return out


def capt_model(
    clip: Any,
    blocks: Any = "all",
    seed: int = 0,
    visual_prompts: torch.Tensor | None = None,
    experts: Experts | None = None,
    **adapter: Any,
) -> CaptModel:
    """CAPT on a CLIP: two commonality and three difference centres as wide as its joint space."""
    width = clip.visual.proj.shape[1]
    centres = unit(5, width, seed=9).float()
    tower = ImageTower(clip.visual)
    if visual_prompts is not None:
        tower = PromptedTower(clip.visual, visual_prompts)
    return CaptModel(
        lambda: tower,
        {"commonality": centres[:2], "difference": centres[2:]},
        paper_preset.adapter(blocks=blocks, **adapter),
        experts or paper_preset.experts(),
        seed,
        shared_space=True,
    )


def photos(count: int = 4, side: int = 32) -> torch.Tensor:
    """Normalised images [count, 3, side, side]."""
    return normal(count, 3, side, side, seed=1).float()


def randomise(model: nn.Module, seed: int = 3) -> None:
    """Leave the start: no trainable tensor is zero any more."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.1 * normal(*parameter.shape, seed=1000 * seed + number))
