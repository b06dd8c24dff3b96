"""MGDE: the router and mixture of eq. 11, masking, gate statistics and the residual gate."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from capt_core.methods.capt.experts import (
    Masks,
    MultiGranularityDiscrepancyExpert,
    gate_entropy,
    mixture,
    replace_cues,
    route,
)
from capt_core.methods.capt.projection import pseudo_inverse
from capt_core.methods.capt.semantic_expert import SemanticExpert
from capt_core.methods.capt.settings import EXPERTS, Experts, Granularity
from tests import paper_preset
from tests.methods.capt.reference import fill, normal

WIDTH, TEXT_WIDTH = 6, 4
CPU = torch.device("cpu")


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


def test_cues_by_hand() -> None:
    features = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    kept = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    noise = torch.tensor([[7.0, -2.0], [9.0, 9.0]])
    # Standard deviations sqrt(2) and 0.
    expected = torch.tensor([[1.0, -2.0 * math.sqrt(2)], [0.0, 5.0]])
    torch.testing.assert_close(replace_cues(features, kept, noise), expected)


def test_gate_entropy_by_hand() -> None:
    assert float(gate_entropy(torch.eye(3))) == 0.0
    for active in (1, 2, 3):
        even = torch.zeros(4, 3, dtype=torch.float64)
        even[:, :active] = 1 / active
        assert float(gate_entropy(even)) == pytest.approx(math.log(active), abs=1e-12)
    # 3 : 1 in one row and one expert alone in the other.
    gates = torch.tensor([[0.75, 0.25], [1.0, 0.0]], dtype=torch.float64)
    expected = (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / 2
    assert float(gate_entropy(gates)) == pytest.approx(expected)


def feed_forward() -> nn.Module:
    layers = nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, WIDTH))
    fill(layers, 1)
    return layers.requires_grad_(False)


CENTRES = {
    "commonality": functional.normalize(normal(2, TEXT_WIDTH, seed=5).float(), dim=1),
    "difference": functional.normalize(normal(3, TEXT_WIDTH, seed=6).float(), dim=1),
}


def mgde(
    settings: Experts | None = None, frozen: nn.Module | None = None
) -> MultiGranularityDiscrepancyExpert:
    generator = torch.Generator().manual_seed(0)
    return MultiGranularityDiscrepancyExpert(
        frozen or feed_forward(), CENTRES, WIDTH, settings or paper_preset.experts(), generator
    )


def opened(settings: Experts | None = None) -> MultiGranularityDiscrepancyExpert:
    module = mgde(settings)
    with torch.no_grad():
        module.residual_gate.fill_(1)
    return module


def draw(rate: float = 0.5, seed: int = 1, rows: int = 4, experts: int = 3) -> Masks:
    return Masks.draw(experts, rows, WIDTH, rate, torch.Generator().manual_seed(seed))


def router_of(module: MultiGranularityDiscrepancyExpert) -> nn.Parameter:
    assert module.router is not None
    return module.router


@pytest.mark.parametrize("active", [1, 2, 3])
def test_the_mixture_is_equation_11_scaled_by_the_residual_gate(active: int) -> None:
    module = mgde(paper_preset.experts(active=active))
    router = router_of(module)
    with torch.no_grad():
        module.residual_gate.fill_(0.5)
        router.copy_(normal(WIDTH, 3, seed=3))
    features = normal(4, WIDTH).float()
    added, gates = module(features)
    assert torch.equal(gates, route(features, router, active))
    expected = torch.zeros(4, WIDTH)
    for column, name in enumerate(EXPERTS):
        expected += 0.5 * gates[:, [column]] * module.experts[name](features)
    torch.testing.assert_close(added, expected)


SUBSETS: list[list[Granularity]] = [
    ["sample"],
    ["difference"],
    ["sample", "commonality"],
    ["commonality", "difference"],
    ["difference", "sample"],
]


@pytest.mark.parametrize("granularities", SUBSETS, ids="-".join)
@pytest.mark.parametrize("active", [1, 2, 3])
def test_experts_that_are_not_listed_are_left_out(
    granularities: list[Granularity], active: int
) -> None:
    module = mgde(paper_preset.experts(granularities=granularities, active=active))
    # Whatever the order they are asked for in, columns are in the order of the names.
    names = tuple(name for name in EXPERTS if name in granularities)
    assert module.names == names == tuple(module.experts)
    assert router_of(module).shape == (WIDTH, len(names))
    _, gates = module(normal(4, WIDTH).float())
    assert gates.shape == (4, len(names))
    # No more experts can be active than there are.
    assert module.active == min(active, len(names))
    assert (gates > 0).sum(dim=1).tolist() == [min(active, len(names))] * 4


@pytest.mark.parametrize("granularities", [*SUBSETS, list(EXPERTS)], ids="-".join)
def test_mean_routing_weighs_all_alike_without_a_router(granularities: list[Granularity]) -> None:
    module = opened(paper_preset.experts(granularities=granularities, routing="mean", active=1))
    assert module.router is None
    features = normal(4, WIDTH).float()
    added, gates = module(features)
    assert torch.equal(gates, torch.full((4, len(granularities)), 1 / len(granularities)))
    outputs = [module.experts[name](features) for name in granularities]
    torch.testing.assert_close(added, torch.stack(outputs).mean(dim=0))


@pytest.mark.parametrize("routing", ["top_k", "mean"])
def test_without_experts_nothing_is_added(routing: str) -> None:
    module = opened(paper_preset.experts(granularities=[], routing=routing))
    assert module.router is None
    added, gates = module(normal(4, WIDTH).float())
    assert torch.equal(added, torch.zeros(4, WIDTH))
    assert gates.shape == (4, 0)


def test_semantic_experts_start_from_the_inverse_of_the_output_map() -> None:
    inverse = pseudo_inverse(normal(WIDTH, TEXT_WIDTH, seed=7))
    module = MultiGranularityDiscrepancyExpert(
        feed_forward(),
        CENTRES,
        WIDTH,
        paper_preset.experts(),
        torch.Generator().manual_seed(0),
        inverse,
    )
    for name, centres in CENTRES.items():
        expert = module.experts[name]
        assert isinstance(expert, SemanticExpert)
        assert torch.equal(expert.centres, centres)
        assert torch.equal(expert.projection, inverse.matrix)


def test_the_sample_expert_is_a_trainable_copy() -> None:
    frozen = feed_forward()
    module = mgde(frozen=frozen)
    sample = module.experts["sample"]
    features = normal(4, WIDTH).float()
    assert torch.equal(sample(features), frozen(features))
    assert all(parameter.requires_grad for parameter in sample.parameters())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    with torch.no_grad():
        for parameter in sample.parameters():
            parameter.add_(1)
    assert not torch.equal(sample(features), frozen(features))


def test_masking_happens_only_with_masks() -> None:
    module = opened()
    features = normal(4, WIDTH).float()
    plain, gates = module(features)
    assert torch.equal(module(features)[0], plain)
    masked, same_gates = module(features, draw(seed=1))
    assert not torch.allclose(masked, plain)
    assert torch.equal(same_gates, gates)  # the router sees the cues as they are
    assert torch.equal(module(features, draw(seed=1))[0], masked)
    assert not torch.equal(module(features, draw(seed=2))[0], masked)


def test_no_mask_rate_masks_nothing() -> None:
    module = opened()
    features = normal(4, WIDTH).float()
    masked, _ = module(features, draw(0.0))
    assert torch.equal(masked, module(features)[0])


def test_the_mask_rate_is_the_share_of_replaced_cues() -> None:
    module = opened()
    seen: list[torch.Tensor] = []
    for name in EXPERTS:
        module.experts[name].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = normal(2000, WIDTH).float()
    module(features, draw(0.3, rows=2000))
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


def test_each_expert_takes_its_own_draws() -> None:
    module = opened(
        paper_preset.experts(granularities=["commonality", "difference"], routing="mean")
    )
    features, masks = normal(4, WIDTH).float(), draw(experts=2)
    outputs = [
        module.experts[name](replace_cues(features, masks.kept[index], masks.noise[index]))
        for index, name in enumerate(module.names)
    ]
    torch.testing.assert_close(module(features, masks)[0], torch.stack(outputs).mean(dim=0))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_some_rows_see_the_draws_of_the_whole_batch(chosen: list[int]) -> None:
    module, features = opened(), normal(7, WIDTH).float()
    masks = draw(rows=7)
    part = masks.rows(chosen, CPU)
    assert torch.equal(part.kept, masks.kept[:, chosen])
    assert torch.equal(part.noise, masks.noise[:, chosen])
    whole, _ = module(features, masks)
    torch.testing.assert_close(module(features[chosen], part)[0], whole[chosen])


def test_the_sizes_and_the_start_for_vit_b16() -> None:
    # With d_text = 768 and five centres each.
    mlp = nn.Sequential(nn.Linear(768, 3072), nn.GELU(), nn.Linear(3072, 768))
    centres = torch.eye(5, 768)
    module = MultiGranularityDiscrepancyExpert(
        mlp,
        {"commonality": centres, "difference": centres},
        768,
        paper_preset.experts(),
        torch.Generator().manual_seed(0),
    )

    def size(name: str) -> int:
        return sum(parameter.numel() for parameter in module.experts[name].parameters())

    assert size("sample") == 4_722_432
    assert size("commonality") + size("difference") == 1_196_546
    assert router_of(module).numel() == 2_304
    # As many draws of N(0, 0.02^2).
    assert abs(float(router_of(module).detach().std()) - 0.02) < 0.002
    assert module.residual_gate.numel() == 1
