"""The confused-pair expert by hand, and on a model; what experts give, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from capt_core.methods.capt.diagnosis import (
    common_share,
    expert_statistics,
    lookup_entropy,
    output_norm,
    watched,
)
from capt_core.methods.capt.pair_expert import (
    ConfusedPairExpert,
    ConfusedPairs,
    fisher_keys,
    pair_weights,
    quiet_values,
)
from capt_core.methods.capt.within_class import WithinClass
from tests.methods.capt.reference import normal, unit

FIRST, SECOND = torch.tensor([0, 0]), torch.tensor([1, 2])


def test_the_weights_of_pairs_by_hand() -> None:
    # Confidences 1/2, 1/2, 0 and 1, 0, 0 up to e^-100.
    texts = 100 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 0.0]], dtype=torch.float64)
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    found = pair_weights(features, texts, FIRST, SECOND)
    expected = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_the_keys_by_hand() -> None:
    # Both classes spread by a variance of 2 along the first axis and 1/2 along the second; the
    # means differ by 4 along the first: k = (1 / sqrt 2, 0), half-way at 2.
    features = torch.tensor([[1.0, 0.5], [-1.0, -0.5], [5.0, -0.5], [3.0, 0.5]])
    labels = torch.tensor([0, 0, 1, 1])
    within = WithinClass.of(features, labels)
    assert within is not None
    keys, offsets = fisher_keys(within, [(1, 0)], shrinkage=1e-12)
    torch.testing.assert_close(keys, torch.tensor([[0.5**0.5, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(offsets, torch.tensor([2 * 0.5**0.5], dtype=torch.float64))
    # Shrunk all the way, both axes have the mean variance.
    keys, _ = fisher_keys(within, [(1, 0)], shrinkage=1.0)
    torch.testing.assert_close(keys, torch.tensor([[1.25**-0.5, 0.0]], dtype=torch.float64))


def test_classes_of_equal_means_have_no_key() -> None:
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    within = WithinClass.of(features, torch.tensor([0, 0, 1, 1]))
    assert within is not None
    keys, offsets = fisher_keys(within, [(0, 1)], 0.5)
    assert not keys.any()
    assert not offsets.any()


def test_quiet_values_by_hand() -> None:
    # The others lie along the first axis alone: G = diag(1, 0) + 0.1 x 1/2, so that a difference
    # along both is made along the second, 1.05 / 0.05 = 21 times as much.
    others = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    differences = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    expected = torch.tensor([[1 / 22, 21 / 22]], dtype=torch.float64)
    torch.testing.assert_close(quiet_values(differences, others), expected)
    # Without others the difference itself is the shortest move.
    torch.testing.assert_close(
        quiet_values(differences, others[:0]), torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    )
    # Texts that are equal cannot be told apart.
    assert not quiet_values(torch.zeros(1, 2), others).any()


@given(st.integers(0, 999))
def test_quiet_values_move_the_pair_by_one_and_others_less(seed: int) -> None:
    others, differences = unit(9, 5, seed=seed), normal(2, 5, seed=seed + 1)
    values = quiet_values(differences, others)
    torch.testing.assert_close((values * differences).sum(dim=1), torch.ones(2).double())
    straight = differences / differences.square().sum(dim=1, keepdim=True)
    ridge = 0.1 * 9 / 5  # of nine unit-length texts in five dimensions

    def disturbance(moves: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = (others @ moves.T).square().sum(dim=0)
        return found + ridge * moves.square().sum(dim=1)

    assert bool((disturbance(values) <= disturbance(straight) + 1e-9).all())


def test_the_expert_by_hand() -> None:
    # Two classes an image is half-way between by texts, and two standard deviations past half-way
    # by images: the logits move by 2 x strength 0.4, that is by 0.08 in cosines of scale 10.
    texts = torch.tensor([[0.6, 0.8], [-0.6, 0.8]])
    mined = ConfusedPairs([(0, 1)], texts, torch.zeros(0, 2), 10.0, 0.5, 0.4)
    features = torch.tensor([[0.2, 1.0], [0.4, 1.0], [-0.2, 1.0], [-0.4, 1.0]])
    within = WithinClass.of(features, torch.tensor([0, 0, 1, 1]))
    assert within is not None
    expert = mined.expert(within)
    with torch.no_grad():
        expert.keys.copy_(torch.tensor([[0.0, 3.0]]))
        expert.offsets.fill_(1.0)
    moved = expert(torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(10 * moved @ (texts[0] - texts[1]), torch.tensor([0.8]))
    assert not list(expert.parameters())


@pytest.mark.parametrize("at_once", [1, 15, 64])
def test_many_pairs_are_looked_at_a_few_images_at_a_time(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = torch.Generator().manual_seed(0)
    expert = ConfusedPairExpert(5, 4, 3)
    expert.load_state_dict(
        {
            name: torch.randint(4, (5, 2), generator=draws)
            if name == "pairs"
            else torch.randn(tensor.shape, generator=draws)
            for name, tensor in expert.state_dict().items()
        }
    )
    features = torch.randn(13, 3, generator=draws)
    whole = expert(features)
    seen = list[int]()

    def watched_weights(part: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        return pair_weights(part, *given)

    monkeypatch.setattr("capt_core.methods.capt.pair_expert.AT_ONCE", at_once)
    monkeypatch.setattr("capt_core.methods.capt.pair_expert.pair_weights", watched_weights)
    torch.testing.assert_close(expert(features), whole)
    rows = max(1, at_once // 5)
    assert seen == [min(rows, 13 - start) for start in range(0, 13, rows)]


def test_the_diagnosis_by_hand() -> None:
    outputs = torch.tensor([[3.0, 4.0], [3.0, -4.0]])
    assert output_norm(outputs) == 5.0
    # The mean is (3, 0): 9 of 25.
    assert common_share(outputs) == pytest.approx(9 / 25)
    assert common_share(torch.ones(4, 3)) == pytest.approx(1)
    assert common_share(torch.zeros(4, 3)) == 0.0
    assert lookup_entropy(torch.full((2, 4), 0.25)) == pytest.approx(1)
    assert lookup_entropy(torch.eye(3)) == pytest.approx(0, abs=1e-6)
    assert lookup_entropy(torch.tensor([[0.75, 0.25]])) == pytest.approx(
        (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(2)
    )
    assert lookup_entropy(torch.ones(2, 1)) == 1.0


def test_watching_tells_what_experts_gave_and_leaves_nothing_behind() -> None:
    experts = nn.ModuleDict({"sample": nn.Linear(3, 3)})
    features = normal(5, 3).float()
    with watched(experts) as seen:
        given_out = experts["sample"](features)
    assert torch.equal(seen.outputs["sample"], given_out)
    experts["sample"](features + 1)
    assert torch.equal(seen.outputs["sample"], given_out)
    found = expert_statistics(seen)
    assert found["sample_expert_norm"] == output_norm(given_out)
    assert found["difference_expert_norm"] is found["difference_expert_entropy"] is None
