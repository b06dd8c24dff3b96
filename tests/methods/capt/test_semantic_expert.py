"""Semantic experts: equation 12, key-value memory and feed-forward form, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from capt_core.methods.capt.semantic_expert import (
    SemanticExpert,
    feed_forward_lookup,
    memory_lookup,
    project_centres,
)
from tests.methods.capt.reference import normal

WIDTH, TEXT_WIDTH = 6, 4
FORMS = ("memory", "feed_forward")


def expert(
    centres: torch.Tensor, width: int = WIDTH, form: str = "memory", seed: int = 0
) -> SemanticExpert:
    generator = torch.Generator().manual_seed(seed)
    assert form in FORMS
    return SemanticExpert(
        centres, width, "memory" if form == "memory" else "feed_forward", generator
    )


def test_the_centres_are_projected_by_the_transpose_of_w() -> None:
    centres = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    w = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert project_centres(centres, w).tolist() == [[1.0, 2.0, 3.0], [8.5, 11.0, 13.5]]
    for centre, projected in zip(centres, project_centres(centres, w), strict=True):
        torch.testing.assert_close(projected, w.T @ centre)


def test_the_memory_by_hand() -> None:
    # f K^T / sqrt(4) = (ln 3, 0): the values weigh 3 : 1.
    features = torch.tensor([[2 * math.log(3), 0, 0, 0]], dtype=torch.float64)
    keys = torch.eye(4, dtype=torch.float64)[:2]
    values = torch.tensor([[4.0, 0, 0, 8], [0, 4, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(
        memory_lookup(features, keys, values),
        torch.tensor([[3.0, 1.0, 0.0, 6.0]], dtype=torch.float64),
    )


def test_the_feed_forward_form_by_hand() -> None:
    # K f = (ln 3 / 1.702, 0): QuickGELU gives 3/4 of the first, nothing of the second.
    hidden = math.log(3) / 1.702
    features = torch.tensor([[hidden, 0.0]], dtype=torch.float64)
    values = torch.tensor([[4.0, 8.0], [100.0, 100.0]], dtype=torch.float64)
    torch.testing.assert_close(
        feed_forward_lookup(features, torch.eye(2, dtype=torch.float64), values),
        torch.tensor([[3 * hidden, 6 * hidden]], dtype=torch.float64),
    )


@pytest.mark.parametrize(
    ("form", "look_up"), [("memory", memory_lookup), ("feed_forward", feed_forward_lookup)]
)
def test_bias_and_offsets_are_added_to_keys_and_values(form: str, look_up: object) -> None:
    assert callable(look_up)
    trained = expert(torch.eye(TEXT_WIDTH)[:2], form=form)
    with torch.no_grad():
        trained.bias.copy_(torch.arange(6.0))
        trained.key_offsets.fill_(0.5)
        trained.value_offsets[1].fill_(-2)
    features = normal(5, WIDTH, seed=1).float()
    projected = trained.projection[:2] + torch.arange(6.0)
    values = projected.clone()
    values[1] -= 2
    torch.testing.assert_close(trained(features), look_up(features, projected + 0.5, values))


@pytest.mark.parametrize("width", [TEXT_WIDTH, TEXT_WIDTH + 3])
def test_the_projection_keeps_lengths_at_the_start(width: int) -> None:
    centres = functional.normalize(normal(5, TEXT_WIDTH).float(), dim=1)
    fresh = expert(centres, width)
    projected = project_centres(fresh.centres, fresh.projection)
    torch.testing.assert_close(projected @ projected.T, centres @ centres.T)
    if width == TEXT_WIDTH:
        assert torch.equal(projected, centres)


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


@pytest.mark.parametrize("form", FORMS)
def test_every_trainable_tensor_of_an_expert_gets_a_gradient(form: str) -> None:
    fresh = expert(functional.normalize(normal(3, TEXT_WIDTH).float(), dim=1), form=form)
    fresh(normal(5, WIDTH, seed=1).float()).square().sum().backward()
    for name, parameter in fresh.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name
