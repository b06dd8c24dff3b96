"""MGDE: the router and mixture of eq. 11, the centres of eq. 12, masking and the residual gate."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from capt_core.methods.capt.experts import (
    MultiGranularityDiscrepancyExpert,
    SemanticExpert,
    memory_lookup,
    mixture,
    project_centres,
    replace_cues,
    route,
)

WIDTH, TEXT_WIDTH = 6, 4


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_gate_by_hand() -> None:
    # Logits ln 3, 0, -5: the best two share 3 : 1, the third gets nothing.
    features = torch.tensor([[1.0]], dtype=torch.float64)
    router = torch.tensor([[math.log(3), 0.0, -5.0]], dtype=torch.float64)
    gates = route(features, router, 2)
    torch.testing.assert_close(gates, torch.tensor([[0.75, 0.25, 0.0]], dtype=torch.float64))
    assert float(gates[0, 2]) == 0.0


def test_ties_in_the_gate_go_to_the_first_experts() -> None:
    gates = route(torch.ones(1, 1), torch.zeros(1, 3), 2)
    assert gates.tolist() == [[0.5, 0.5, 0.0]]


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 9999), st.booleans())
def test_exactly_k_experts_are_active(rows: int, active: int, seed: int, ties: bool) -> None:
    features, router = normal(rows, WIDTH, seed=seed), normal(WIDTH, 3, seed=seed + 1)
    if ties:
        features, router = features.round(), router.round()
    gates = route(features, router, active)
    assert (gates > 0).sum(dim=1).tolist() == [active] * rows
    torch.testing.assert_close(gates.sum(dim=1), torch.ones(rows, dtype=torch.float64))
    # The same as softmax, then TopK, then renormalising.
    shares = (features @ router).softmax(dim=1)
    kept = shares.sort(dim=1, descending=True, stable=True)
    best = torch.zeros_like(shares).scatter(1, kept.indices[:, :active], kept.values[:, :active])
    torch.testing.assert_close(gates, best / best.sum(dim=1, keepdim=True))


def test_the_mixture_by_hand() -> None:
    gates = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]])
    outputs = torch.tensor([[[4.0, 0], [0, 4], [9, 9]], [[1, 1], [2, 2], [3, 5]]])
    assert mixture(gates, outputs).tolist() == [[3.0, 1.0], [3.0, 5.0]]


def test_the_memory_by_hand() -> None:
    # f K^T / sqrt(4) = (ln 3, 0): the values weigh 3 : 1.
    features = torch.tensor([[2 * math.log(3), 0, 0, 0]], dtype=torch.float64)
    keys = torch.eye(4, dtype=torch.float64)[:2]
    values = torch.tensor([[4.0, 0, 0, 8], [0, 4, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(
        memory_lookup(features, keys, values),
        torch.tensor([[3.0, 1.0, 0.0, 6.0]], dtype=torch.float64),
    )


def test_cues_by_hand() -> None:
    features = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    kept = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    noise = torch.tensor([[7.0, -2.0], [9.0, 9.0]])
    # Standard deviations sqrt(2) and 0.
    expected = torch.tensor([[1.0, -2.0 * math.sqrt(2)], [0.0, 5.0]])
    torch.testing.assert_close(replace_cues(features, kept, noise), expected)


def test_the_centres_are_projected_by_the_transpose_of_w() -> None:
    centres = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    w = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert project_centres(centres, w).tolist() == [[1.0, 2.0, 3.0], [8.5, 11.0, 13.5]]
    for centre, projected in zip(centres, project_centres(centres, w), strict=True):
        torch.testing.assert_close(projected, w.T @ centre)


def test_a_fresh_semantic_expert_looks_up_its_projected_centres() -> None:
    centres = functional.normalize(normal(3, TEXT_WIDTH).float(), dim=1)
    expert = SemanticExpert(centres, WIDTH, torch.Generator().manual_seed(0))
    features = normal(5, WIDTH, seed=1).float()
    projected = centres @ expert.projection
    torch.testing.assert_close(expert(features), memory_lookup(features, projected, projected))


@pytest.mark.parametrize("width", [TEXT_WIDTH, TEXT_WIDTH + 3])
def test_the_projection_keeps_lengths_at_the_start(width: int) -> None:
    centres = functional.normalize(normal(5, TEXT_WIDTH).float(), dim=1)
    expert = SemanticExpert(centres, width, torch.Generator().manual_seed(0))
    projected = project_centres(expert.centres, expert.projection)
    torch.testing.assert_close(projected @ projected.T, centres @ centres.T)
    if width == TEXT_WIDTH:
        assert torch.equal(projected, centres)


def test_a_narrower_tower_gets_an_orthogonal_projection() -> None:
    expert = SemanticExpert(torch.eye(TEXT_WIDTH), 2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(expert.projection.T @ expert.projection, torch.eye(2))


def test_the_centres_are_a_copy_and_no_parameter() -> None:
    centres = torch.eye(TEXT_WIDTH)
    expert = SemanticExpert(centres, WIDTH, torch.Generator().manual_seed(0))
    assert "centres" in expert.state_dict()
    assert "centres" not in dict(expert.named_parameters())
    centres.zero_()
    assert torch.equal(expert.centres, torch.eye(TEXT_WIDTH))


def feed_forward() -> nn.Module:
    layers = nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, WIDTH))
    with torch.no_grad():
        for seed, parameter in enumerate(layers.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed))
    return layers.requires_grad_(False)


def mgde(
    active: int = 2, mask_rate: float = 0.3, seed: int = 0, frozen: nn.Module | None = None
) -> MultiGranularityDiscrepancyExpert:
    generator = torch.Generator().manual_seed(seed)
    return MultiGranularityDiscrepancyExpert(
        frozen or feed_forward(),
        functional.normalize(normal(2, TEXT_WIDTH, seed=5).float(), dim=1),
        functional.normalize(normal(3, TEXT_WIDTH, seed=6).float(), dim=1),
        WIDTH,
        active,
        mask_rate,
        generator,
    )


def test_a_fresh_mixture_adds_exactly_nothing() -> None:
    features = normal(4, WIDTH).float()
    added, gates = mgde()(features)
    assert torch.equal(added, torch.zeros(4, WIDTH))
    assert gates.shape == (4, 3)
    masked, _ = mgde()(features, torch.Generator().manual_seed(0))
    assert torch.equal(masked, torch.zeros(4, WIDTH))


@pytest.mark.parametrize("active", [1, 2, 3])
def test_the_mixture_is_equation_11_scaled_by_the_residual_gate(active: int) -> None:
    module = mgde(active)
    with torch.no_grad():
        module.residual_gate.fill_(0.5)
        module.router.copy_(normal(WIDTH, 3, seed=3))
    features = normal(4, WIDTH).float()
    added, gates = module(features)
    assert torch.equal(gates, route(features, module.router, active))
    expected = torch.zeros(4, WIDTH)
    for column, expert in enumerate((module.sample, module.commonality, module.difference)):
        expected += 0.5 * gates[:, [column]] * expert(features)
    torch.testing.assert_close(added, expected)


def test_the_sample_expert_is_a_trainable_copy() -> None:
    frozen = feed_forward()
    module = mgde(frozen=frozen)
    features = normal(4, WIDTH).float()
    assert torch.equal(module.sample(features), frozen(features))
    assert all(parameter.requires_grad for parameter in module.sample.parameters())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    with torch.no_grad():
        for parameter in module.sample.parameters():
            parameter.add_(1)
    assert not torch.equal(module.sample(features), frozen(features))


def opened(mask_rate: float) -> MultiGranularityDiscrepancyExpert:
    module = mgde(mask_rate=mask_rate)
    with torch.no_grad():
        module.residual_gate.fill_(1)
    return module


def test_masking_happens_only_with_a_generator() -> None:
    module = opened(0.5)
    features = normal(4, WIDTH).float()
    plain, gates = module(features)
    assert torch.equal(module(features)[0], plain)
    masked, same_gates = module(features, torch.Generator().manual_seed(1))
    assert not torch.allclose(masked, plain)
    assert torch.equal(same_gates, gates)  # the router sees the cues as they are
    assert torch.equal(module(features, torch.Generator().manual_seed(1))[0], masked)
    assert not torch.equal(module(features, torch.Generator().manual_seed(2))[0], masked)


def test_no_mask_rate_masks_nothing() -> None:
    module = opened(0.0)
    features = normal(4, WIDTH).float()
    masked, _ = module(features, torch.Generator().manual_seed(1))
    assert torch.equal(masked, module(features)[0])


def test_the_mask_rate_is_the_share_of_replaced_cues() -> None:
    module = opened(0.3)
    seen: list[torch.Tensor] = []
    for expert in (module.sample, module.commonality, module.difference):
        expert.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = normal(2000, WIDTH).float()
    module(features, torch.Generator().manual_seed(1))
    replaced = [cues != features for cues in seen]
    for mask in replaced:
        # Five standard deviations of the mean of 12,000 draws.
        assert abs(float(mask.float().mean()) - 0.3) < 0.021
    assert not torch.equal(replaced[0], replaced[1])
    assert not torch.equal(replaced[1], replaced[2])
    for cues, mask in zip(seen, replaced, strict=True):
        deviation = features.std(dim=1, keepdim=True).expand_as(features)
        scaled = (cues / deviation)[mask]
        assert abs(float(scaled.mean())) < 0.1
        assert abs(float(scaled.std()) - 1) < 0.1


def test_starts_follow_the_generator() -> None:
    one, again, other = mgde(seed=1), mgde(seed=1), mgde(seed=2)
    for name, value in one.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(one.router, other.router)
    wide = MultiGranularityDiscrepancyExpert(
        nn.Identity(),
        torch.eye(2),
        torch.eye(2),
        768,
        2,
        0.3,
        torch.Generator().manual_seed(0),
    )
    # 2,304 draws of N(0, 0.02^2)
    assert abs(float(wide.router.detach().std()) - 0.02) < 0.002


def test_the_sizes_for_vit_b16() -> None:
    # Method facts 3.7, with d_text = 768 and five centres each.
    mlp = nn.Sequential(nn.Linear(768, 3072), nn.GELU(), nn.Linear(3072, 768))
    centres = torch.eye(5, 768)
    module = MultiGranularityDiscrepancyExpert(
        mlp, centres, centres, 768, 2, 0.3, torch.Generator()
    )

    def size(part: nn.Module) -> int:
        return sum(parameter.numel() for parameter in part.parameters())

    assert size(module.sample) == 4_722_432
    assert size(module.commonality) + size(module.difference) == 1_196_544
    assert module.router.numel() == 2_304
    assert module.residual_gate.numel() == 1
