"""The Diff-Manner Adapter: equations 10 and 13 by hand and against independent arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from capt_core.errors import CaptError
from capt_core.methods.capt.adapter import DiffMannerAdapter, add_local_detail, dynamic_weight
from tests import paper_preset
from tests.methods.capt.reference import (
    Array,
    context,
    convolve,
    fill,
    normal,
    random_attention,
)


@pytest.mark.parametrize(
    ("scale", "exponent", "cosines", "alphas"),
    [
        (5.0, 0.5, [1.0, 0.81, 0.64, 0.25], [5.0, 4.5, 4.0, 2.5]),
        (3.0, 2.0, [0.5, 1.0], [0.75, 3.0]),
        # Outside the range they are clamped.
        (5.0, 0.5, [-1.0, 0.0, 1e-9, 1.000001], [0.05, 0.05, 0.05, 5.0]),
    ],
)
def test_the_dynamic_weight_by_hand(
    scale: float, exponent: float, cosines: list[float], alphas: list[float]
) -> None:
    found = dynamic_weight(torch.tensor(cosines, dtype=torch.float64), scale, exponent)
    torch.testing.assert_close(found, torch.tensor(alphas, dtype=torch.float64))


def test_local_detail_by_hand() -> None:
    # A 2 x 2 grid of width 1; the kernel takes the left neighbour once and the one above twice.
    patches = torch.tensor([[[10.0], [20.0], [30.0], [40.0]]])
    around = torch.tensor([[[101.0], [102.0], [103.0], [104.0]]])
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, 0] = 1  # left
    kernel[0, 0, 0, 1] = 2  # above
    found = add_local_detail(patches, around, kernel, torch.tensor([0.5]))
    # The grid is 101 102 / 103 104; outside it is 0.
    detail = [0.0, 101.0, 2 * 101.0, 103.0 + 2 * 102.0]
    expected = [x + 0.5 * d for x, d in zip((10.0, 20.0, 30.0, 40.0), detail, strict=True)]
    torch.testing.assert_close(found, torch.tensor([[[value] for value in expected]]))


def adapter_case(
    tokens_beside: int = 0, **settings: Any
) -> tuple[DiffMannerAdapter, torch.Tensor, nn.LayerNorm]:
    """An adapter for 9 patches of width 8 with random weights, tokens, and a LayerNorm."""
    adapter = DiffMannerAdapter(8, 9, paper_preset.adapter(**settings)).double()
    norm = nn.LayerNorm(8, dtype=torch.float64)
    fill(adapter, 2)
    fill(norm, 3)
    return adapter, normal(2, 10 + tokens_beside, 8, seed=4), norm


FORMS = ("broadcast", "unsummed")
PARTS = ("global_local", "local", "global")
ALPHAS = torch.tensor([3.0, 4.0], dtype=torch.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("parts", PARTS)
def test_prompt_tokens_are_neither_changed_nor_seen(form: str, parts: str) -> None:
    adapter, tokens, norm = adapter_case(3, form=form, parts=parts)
    found = adapter(tokens, ALPHAS, norm, random_attention(1))
    assert torch.equal(found[:, 0], tokens[:, 0])
    assert torch.equal(found[:, 10:], tokens[:, 10:])
    without = adapter(tokens[:, :10], ALPHAS, norm, random_attention(1))
    assert torch.equal(found[:, :10], without)


def normalise(tokens: Array, norm: nn.LayerNorm) -> Array:
    mean, variance = tokens.mean(axis=-1, keepdims=True), tokens.var(axis=-1, keepdims=True)
    scaled = (tokens - mean) / np.sqrt(variance + norm.eps)
    shifted: Array = scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    return shifted


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("size", [3, 5])
def test_the_adapter_is_equations_9_and_10_on_normalised_tokens(
    form: str, parts: str, size: int
) -> None:
    adapter, tokens, norm = adapter_case(form=form, parts=parts, kernel_size=size)
    frozen = random_attention(7)
    found = adapter(tokens, ALPHAS, norm, frozen).detach().numpy()
    x = tokens.numpy()
    z = normalise(x, norm)
    kernel = adapter.kernel.detach().numpy()[:, 0]
    for image, alpha in enumerate(ALPHAS.tolist()):
        grid = context(adapter.settings, frozen, z[image, 0], z[image, 1:]).reshape(3, 3, 8)
        detail = convolve(grid, kernel).reshape(9, 8)
        np.testing.assert_allclose(found[image, 1:], x[image, 1:] + alpha * detail, 1e-8)


def test_the_parts_by_hand() -> None:
    # Identity projections and no LayerNorm: patches 1 and 3 at a score of 0 give g = 2 in a 2 x 2
    # grid of 1 3 / 1 3, and a kernel that takes each patch itself twice.
    attention = nn.MultiheadAttention(1, 1, bias=False, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.fill_(1)
        attention.out_proj.weight.fill_(1)
    tokens = torch.tensor([[[0.0], [1.0], [3.0], [1.0], [3.0]]])
    for parts, added in (
        ("local", [2.0, 6.0, 2.0, 6.0]),
        ("global", [4.0, 4.0, 4.0, 4.0]),
        ("global_local", [6.0, 10.0, 6.0, 10.0]),
    ):
        adapter = DiffMannerAdapter(1, 4, paper_preset.adapter(parts=parts))
        with torch.no_grad():
            adapter.kernel[0, 0, -1 if parts == "global" else 1, -1 if parts == "global" else 1] = 2
        found = adapter(tokens, torch.tensor([1.0]), nn.Identity(), attention)
        assert (found - tokens)[0, 1:, 0].tolist() == added, parts


@pytest.mark.parametrize("patches", [2, 8, 12, 195])
def test_a_grid_that_is_not_square_is_refused(patches: int) -> None:
    with pytest.raises(CaptError, match=f"square patch grid, the tower has {patches} patches"):
        DiffMannerAdapter(8, patches, paper_preset.adapter())


def test_the_size_of_an_adapter() -> None:
    # Twelve of them for ViT-B/16 have 82,944 weights.
    adapter = DiffMannerAdapter(768, 196, paper_preset.adapter())
    assert sum(parameter.numel() for parameter in adapter.parameters()) * 12 == 82_944
    settings = paper_preset.adapter(parts="global", kernel_size=5)
    assert DiffMannerAdapter(768, 196, settings).kernel.shape == (768, 1, 1, 1)
