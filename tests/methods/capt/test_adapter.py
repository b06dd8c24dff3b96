"""The Diff-Manner Adapter: equations 9, 10 and 13 by hand and against independent arithmetic."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from capt_core.errors import CaptError
from capt_core.methods.capt.adapter import (
    DiffMannerAdapter,
    add_local_detail,
    dynamic_weight,
    global_vector,
)

Array = npt.NDArray[np.float64]


@pytest.mark.parametrize(("cosine", "alpha"), [(1.0, 5.0), (0.81, 4.5), (0.64, 4.0), (0.25, 2.5)])
def test_the_dynamic_weight_by_hand(cosine: float, alpha: float) -> None:
    found = dynamic_weight(torch.tensor([cosine], dtype=torch.float64), 5.0, 0.5)
    torch.testing.assert_close(found, torch.tensor([alpha], dtype=torch.float64))


def test_other_scales_and_exponents() -> None:
    cosines = torch.tensor([[0.5, 1.0]], dtype=torch.float64)
    expected = torch.tensor([[0.75, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(dynamic_weight(cosines, 3.0, 2.0), expected)


def test_cosines_outside_the_range_are_clamped() -> None:
    found = dynamic_weight(torch.tensor([-1.0, 0.0, 1e-9, 1.000001], dtype=torch.float64), 5.0, 0.5)
    expected = torch.tensor([0.05, 0.05, 0.05, 5.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


@given(st.lists(st.floats(-1.1, 1.1), min_size=1, max_size=8))
def test_weights_are_finite_positive_and_grow_with_the_cosine(cosines: list[float]) -> None:
    ordered = torch.tensor(sorted(cosines), dtype=torch.float64)
    weights = dynamic_weight(ordered, 5.0, 0.5)
    assert bool(((weights > 0) & (weights <= 5)).all())
    assert bool((weights.diff() >= 0).all())


def test_the_global_vector_by_hand() -> None:
    # One head, all projections the identity: scores ln 3 and 0, so the patches weigh 3 : 1.
    attention = nn.MultiheadAttention(2, 1, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.eye(2).repeat(3, 1))
        attention.out_proj.weight.copy_(torch.eye(2))
    query = torch.tensor([[np.log(3) * np.sqrt(2), 0.0]], dtype=torch.float64)
    patches = torch.tensor([[[1.0, 0.0], [0.0, 4.0]]], dtype=torch.float64)
    found = global_vector(attention, query, patches)
    torch.testing.assert_close(found, torch.tensor([[0.75, 1.0]], dtype=torch.float64))


def attend(attention: nn.MultiheadAttention, query: Array, patches: Array) -> Array:
    """Eq. 9 in float64 numpy, head by head: query [L, D], patches [L, N, D]."""
    weight = attention.in_proj_weight.detach().double().numpy()
    bias = attention.in_proj_bias.detach().double().numpy()
    width, heads = query.shape[-1], attention.num_heads
    size = width // heads
    wq, wk, wv = np.split(weight, 3)
    bq, bk, bv = np.split(bias, 3)
    out = np.zeros_like(query)
    for image in range(len(query)):
        q, k, v = wq @ query[image] + bq, patches[image] @ wk.T + bk, patches[image] @ wv.T + bv
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = k[:, part] @ q[part] / np.sqrt(size)
            shares = np.exp(scores - scores.max())
            out[image, part] = shares @ v[:, part] / shares.sum()
    projection = attention.out_proj
    projected: Array = (
        out @ projection.weight.detach().double().numpy().T
        + projection.bias.detach().double().numpy()
    )
    return projected


def random_attention(seed: int, width: int = 8, heads: int = 2) -> nn.MultiheadAttention:
    attention = nn.MultiheadAttention(width, heads, batch_first=True, dtype=torch.float64).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return attention


@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 6))
def test_the_global_vector_is_attention_from_the_class_token(
    seed: int, images: int, count: int
) -> None:
    attention = random_attention(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    query = torch.randn(images, 8, generator=generator, dtype=torch.float64)
    patches = torch.randn(images, count, 8, generator=generator, dtype=torch.float64)
    found = global_vector(attention, query, patches).detach().numpy()
    np.testing.assert_allclose(
        found, attend(attention, query.numpy(), patches.numpy()), rtol=1e-9, atol=1e-9
    )


def test_local_detail_by_hand() -> None:
    # A 2 x 2 grid of width 1; the kernel takes the left neighbour once and the one above twice.
    patches = torch.tensor([[[10.0], [20.0], [30.0], [40.0]]])
    normalised = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, 0] = 1  # left
    kernel[0, 0, 0, 1] = 2  # above
    found = add_local_detail(
        patches, normalised, torch.tensor([[100.0]]), kernel, torch.tensor([0.5])
    )
    # With g = 100 the grid is 101 102 / 103 104; outside it is 0, not g.
    detail = [0.0, 101.0, 2 * 101.0, 103.0 + 2 * 102.0]
    expected = [x + 0.5 * d for x, d in zip((10.0, 20.0, 30.0, 40.0), detail, strict=True)]
    torch.testing.assert_close(found, torch.tensor([[[value] for value in expected]]))


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


@given(st.integers(1, 4), st.sampled_from([1, 3, 5]), st.integers(1, 3), st.integers(0, 999))
def test_local_detail_is_a_depth_wise_convolution(
    side: int, size: int, images: int, seed: int
) -> None:
    width = 3
    generator = np.random.default_rng(seed)
    patches, normalised = generator.standard_normal((2, images, side * side, width))
    g, kernel = (
        generator.standard_normal((images, width)),
        generator.standard_normal((width, size, size)),
    )
    alpha = generator.uniform(0, 5, images)
    found = add_local_detail(
        torch.tensor(patches),
        torch.tensor(normalised),
        torch.tensor(g),
        torch.tensor(kernel)[:, None],
        torch.tensor(alpha),
    ).numpy()
    for image in range(images):
        grid = (normalised[image] + g[image]).reshape(side, side, width)
        detail = convolve(grid, kernel).reshape(side * side, width)
        np.testing.assert_allclose(
            found[image], patches[image] + alpha[image] * detail, rtol=1e-9, atol=1e-9
        )


def adapter_case(seed: int = 0) -> tuple[DiffMannerAdapter, torch.Tensor, nn.LayerNorm]:
    """An adapter for 9 patches of width 8 with a random kernel, tokens, and a LayerNorm."""
    generator = torch.Generator().manual_seed(seed)
    adapter = DiffMannerAdapter(8, 9, 3).double()
    norm = nn.LayerNorm(8, dtype=torch.float64)
    with torch.no_grad():
        for parameter in (adapter.kernel, norm.weight, norm.bias):
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return adapter, torch.randn(2, 10, 8, generator=generator, dtype=torch.float64), norm


def test_the_class_token_is_untouched() -> None:
    adapter, tokens, norm = adapter_case()
    found = adapter(tokens, torch.tensor([3.0, 4.0]).double(), norm, random_attention(1))
    assert torch.equal(found[:, 0], tokens[:, 0])
    assert not torch.isclose(found[:, 1:], tokens[:, 1:]).any(dim=-1).all()


def test_a_fresh_adapter_is_the_identity() -> None:
    _, tokens, norm = adapter_case()
    fresh = DiffMannerAdapter(8, 9, 3).double()
    found = fresh(tokens, torch.tensor([5.0, 5.0]).double(), norm, random_attention(1))
    assert torch.equal(found, tokens)


def test_no_weight_is_the_identity() -> None:
    adapter, tokens, norm = adapter_case()
    weights = torch.tensor([0.0, 2.0]).double()
    found = adapter(tokens, weights, norm, random_attention(1))
    assert torch.equal(found[0], tokens[0])
    assert not torch.equal(found[1], tokens[1])


def test_the_adapter_is_equations_9_and_10_on_normalised_tokens() -> None:
    adapter, tokens, norm = adapter_case()
    attention = random_attention(1)
    alpha = np.array([3.0, 4.0])
    found = adapter(tokens, torch.tensor(alpha), norm, attention).detach().numpy()
    x = tokens.numpy()
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    z = (x - mean) / np.sqrt(variance + norm.eps)
    z = z * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    g = attend(attention, z[:, 0], z[:, 1:])
    kernel = adapter.kernel.detach().numpy()[:, 0]
    for image in range(2):
        detail = convolve((z[image, 1:] + g[image]).reshape(3, 3, 8), kernel).reshape(9, 8)
        np.testing.assert_allclose(found[image, 1:], x[image, 1:] + alpha[image] * detail, 1e-8)


@pytest.mark.parametrize("patches", [2, 8, 12, 195])
def test_a_grid_that_is_not_square_is_refused(patches: int) -> None:
    with pytest.raises(CaptError, match=f"square patch grid, the tower has {patches} patches"):
        DiffMannerAdapter(8, patches, 3)


@pytest.mark.parametrize("size", [2, 4])
def test_an_even_kernel_is_refused(size: int) -> None:
    with pytest.raises(CaptError, match=f"train.kernel_size must be odd, found {size}"):
        DiffMannerAdapter(8, 9, size)


def test_the_size_of_an_adapter() -> None:
    # Method facts 3.7: twelve of them for ViT-B/16 have 82,944 weights.
    adapter = DiffMannerAdapter(768, 196, 3)
    assert sum(parameter.numel() for parameter in adapter.parameters()) * 12 == 82_944
