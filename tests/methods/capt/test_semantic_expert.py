"""Semantic experts: equation 12 and the key-value memory, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from capt_core.methods.capt.projection import output_map, pseudo_inverse, text_projection
from capt_core.methods.capt.semantic_expert import (
    SemanticExpert,
    lookup_weights,
    project_centres,
)
from tests.methods.capt.reference import normal
from tests.toys import small_clip

WIDTH, TEXT_WIDTH = 6, 4


def expert(centres: torch.Tensor, width: int = WIDTH, seed: int = 0) -> SemanticExpert:
    generator = torch.Generator().manual_seed(seed)
    return SemanticExpert(centres, text_projection(centres.shape[1], width, None, generator))


def test_the_centres_are_projected_by_the_transpose_of_w() -> None:
    centres = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    w = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert project_centres(centres, w).tolist() == [[1.0, 2.0, 3.0], [8.5, 11.0, 13.5]]
    for centre, projected in zip(centres, project_centres(centres, w), strict=True):
        torch.testing.assert_close(projected, w.T @ centre)


def test_the_memory_by_hand() -> None:
    # Cosines 1 and 0 at an inverse temperature of ln 3: 3 : 1, whatever the lengths are.
    features = torch.tensor([[7.0, 0, 0, 0]], dtype=torch.float64)
    keys = 5 * torch.eye(4, dtype=torch.float64)[:2]
    torch.testing.assert_close(
        lookup_weights(features, keys, math.log(3)),
        torch.tensor([[0.75, 0.25]], dtype=torch.float64),
    )


def test_bias_and_offsets_are_added_to_keys_and_values() -> None:
    trained = expert(torch.eye(TEXT_WIDTH)[:2])
    with torch.no_grad():
        trained.bias.copy_(torch.arange(6.0))
        trained.key_offsets.fill_(0.5)
        trained.value_offsets[1].fill_(-2)
        trained.log_inverse_temperature.fill_(math.log(3))
    features = normal(5, WIDTH, seed=1).float()
    projected = trained.projection[:2] + torch.arange(6.0)
    values = projected.clone()
    values[1] -= 2
    weights = lookup_weights(features, projected + 0.5, 3.0)
    torch.testing.assert_close(trained.weights(features), weights)
    torch.testing.assert_close(trained(features), weights @ values)


def test_equal_sizes_do_not_make_the_spaces_equal() -> None:
    # No identity where d_text = D: texts of another space start from an orthogonal matrix.
    start = expert(torch.eye(TEXT_WIDTH), TEXT_WIDTH).projection
    assert not torch.equal(start, torch.eye(TEXT_WIDTH))
    torch.testing.assert_close(start @ start.T, torch.eye(TEXT_WIDTH))


def test_the_inverse_leaves_out_what_the_map_hardly_keeps() -> None:
    # Singular values 2, 1 and 0.1, whose ratio to the largest is 20.
    mapped = torch.zeros(4, 3)
    mapped[0, 0], mapped[1, 1], mapped[2, 2] = 2.0, 1.0, 0.1
    found = pseudo_inverse(mapped, condition=10)
    assert found.rank == 2
    assert found.condition == pytest.approx(2)
    expected = torch.zeros(3, 4)
    expected[0, 0], expected[1, 1] = 0.5, 1.0
    torch.testing.assert_close(found.matrix, expected)
    assert pseudo_inverse(mapped, condition=100).rank == 3


def test_a_move_of_the_class_token_is_the_move_of_the_feature_that_was_asked_for() -> None:
    visual = small_clip().visual
    mapped = output_map(visual)
    assert mapped is not None
    found = pseudo_inverse(mapped, condition=1e6)
    token = normal(1, 32, seed=2).float()
    asked = 1e-3 * normal(1, mapped.shape[1], seed=3).float()
    # Without LayerNorm, whose scale is part of the map.
    torch.testing.assert_close(
        (token + asked @ found.matrix) @ mapped, token @ mapped + asked, rtol=1e-3, atol=1e-4
    )
    assert output_map(small_clip(attentional_pool=True, attn_pooler_queries=3).visual) is None


@pytest.mark.parametrize("width", [TEXT_WIDTH, TEXT_WIDTH + 3])
def test_the_projection_keeps_lengths_at_the_start(width: int) -> None:
    centres = functional.normalize(normal(5, TEXT_WIDTH).float(), dim=1)
    fresh = expert(centres, width)
    projected = project_centres(fresh.centres, fresh.projection)
    torch.testing.assert_close(projected @ projected.T, centres @ centres.T)


def test_a_narrower_tower_gets_an_orthogonal_projection() -> None:
    fresh = expert(torch.eye(TEXT_WIDTH), 2)
    torch.testing.assert_close(fresh.projection.T @ fresh.projection, torch.eye(2))


def test_the_centres_are_a_copy_and_no_parameter() -> None:
    centres = torch.eye(TEXT_WIDTH)
    fresh = expert(centres)
    centres.zero_()
    assert torch.equal(fresh.centres, torch.eye(TEXT_WIDTH))
    assert "centres" not in dict(fresh.named_parameters())
    assert "centres" in fresh.state_dict()


def test_every_trainable_tensor_of_an_expert_gets_a_gradient() -> None:
    fresh = expert(functional.normalize(normal(3, TEXT_WIDTH).float(), dim=1))
    fresh(normal(5, WIDTH, seed=1).float()).square().sum().backward()
    for name, parameter in fresh.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name
