"""Equation 9 and the readings of X-hat, by hand and against independent attention."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from capt_core.methods.capt.context import global_vector, unsummed_attention
from tests import paper_preset
from tests.methods.capt.reference import context, normal, random_attention

Function = Callable[[nn.MultiheadAttention, torch.Tensor, torch.Tensor], torch.Tensor]

LOG3 = math.log(3) * math.sqrt(2)  # a score of ln 3 in one head of width 2


def plain_attention() -> nn.MultiheadAttention:
    """One head of width 2 whose projections are all the identity."""
    attention = nn.MultiheadAttention(2, 1, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.eye(2).repeat(3, 1))
        attention.out_proj.weight.copy_(torch.eye(2))
    return attention


def test_the_global_vector_and_its_terms_by_hand() -> None:
    # Scores ln 3 and 0, so the patches weigh 3 : 1.
    query = torch.tensor([[LOG3, 0.0]], dtype=torch.float64)
    patches = torch.tensor([[[1.0, 0.0], [0.0, 4.0]]], dtype=torch.float64)
    found = global_vector(plain_attention(), query, patches)
    torch.testing.assert_close(found, torch.tensor([[0.75, 1.0]], dtype=torch.float64))
    terms = unsummed_attention(plain_attention(), query, patches)
    expected = torch.tensor([[[0.75, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    torch.testing.assert_close(terms, expected)


def test_the_biases_of_query_value_and_output_by_hand() -> None:
    # The query's bias makes the score ln 3, the value's adds (1, 1), the output's (10, 0).
    attention = nn.MultiheadAttention(2, 1, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.eye(2).repeat(3, 1))
        attention.out_proj.weight.copy_(torch.eye(2))
        attention.in_proj_bias.copy_(torch.tensor([LOG3, 0, 7, -7, 1, 1]))
        attention.out_proj.bias.copy_(torch.tensor([10.0, 0]))
    patches = torch.tensor([[[1.0, 0.0], [0.0, 4.0]]], dtype=torch.float64)
    nothing = torch.zeros(1, 2, dtype=torch.float64)
    found = global_vector(attention, nothing, patches)
    torch.testing.assert_close(found, torch.tensor([[11.75, 2.0]], dtype=torch.float64))
    terms = unsummed_attention(attention, nothing, patches)
    # 3/4 (2, 1) + (5, 0) and 1/4 (1, 5) + (5, 0).
    expected = torch.tensor([[[6.5, 0.75], [5.25, 1.25]]], dtype=torch.float64)
    torch.testing.assert_close(terms, expected)


cases = st.tuples(
    st.integers(0, 999), st.integers(1, 3), st.integers(1, 6), st.sampled_from([1, 2, 4])
)


def drawn(case: tuple[int, int, int, int]) -> tuple[nn.MultiheadAttention, torch.Tensor]:
    """Attention of width 8, and the class token with its patches, [L, 1 + N, 8]."""
    seed, images, patches, heads = case
    return random_attention(seed, 8, heads), normal(images, 1 + patches, 8, seed=seed + 1)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-6)], ids=str
)
@given(case=cases)
def test_the_global_vector_is_the_attention_of_the_class_token(
    precision: torch.dtype, tolerance: float, case: tuple[int, int, int, int]
) -> None:
    attention, z = drawn(case)
    attention, z = attention.to(precision), z.to(precision)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.mul_(0.3)  # about a trained tower's; scores do not saturate
    found = global_vector(attention, z[:, 0], z[:, 1:])
    expected = attention(z[:, :1], z[:, 1:], z[:, 1:], need_weights=False)[0][:, 0]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@given(case=cases)
def test_the_other_reading_head_by_head(case: tuple[int, int, int, int]) -> None:
    attention, z = drawn(case)
    found = unsummed_attention(attention, z[:, 0], z[:, 1:]).detach().numpy()
    settings = paper_preset.adapter(form="unsummed")
    for image, tokens in enumerate(z.numpy()):
        expected = context(settings, attention, tokens[0], tokens[1:])
        np.testing.assert_allclose(found[image], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", [global_vector, unsummed_attention])
def test_gradients_are_those_of_the_attention(function: Function) -> None:
    attention = random_attention(5)
    z = normal(2, 7, 8, seed=6)
    function(attention, z[:, 0], z[:, 1:]).square().sum().backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in attention.named_parameters()}
    attention.zero_grad()
    if function is global_vector:
        expected = attention(z[:, :1], z[:, 1:], z[:, 1:], need_weights=False)[0]
    else:
        # Each patch's own weight and value; the rest of the attention is as it is.
        _, weights = attention(z[:, :1], z[:, 1:], z[:, 1:], average_attn_weights=False)
        values = nn.functional.linear(
            z[:, 1:], attention.in_proj_weight[16:], attention.in_proj_bias[16:]
        )
        terms = weights[:, :, 0].repeat_interleave(4, dim=1).transpose(1, 2) * values
        expected = terms @ attention.out_proj.weight.T + attention.out_proj.bias / 6
    expected.square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None
        gradient = found[name]
        # The product leaves out the key bias, whose gradient is zero but for rounding.
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", [global_vector, unsummed_attention])
def test_attention_without_biases(function: Function) -> None:
    with_zeros, without = random_attention(4), random_attention(4, bias=False)
    with torch.no_grad():
        with_zeros.in_proj_bias.zero_()
        with_zeros.out_proj.bias.zero_()
        without.in_proj_weight.copy_(with_zeros.in_proj_weight)
        without.out_proj.weight.copy_(with_zeros.out_proj.weight)
    z = normal(2, 5, 8, seed=5)
    torch.testing.assert_close(
        function(without, z[:, 0], z[:, 1:]), function(with_zeros, z[:, 0], z[:, 1:])
    )
