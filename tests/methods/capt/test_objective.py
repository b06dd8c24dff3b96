"""The objective of a step: parts, weights, and which rows count for what."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capt_core.methods.capt.losses import confusion_loss, original_loss
from capt_core.methods.capt.objective import Objective, gate_statistics
from capt_core.methods.capt.settings import Losses
from capt_core.methods.retention import distillation_loss
from tests import paper_preset
from tests.methods.capt.reference import unit

SCALE = 7.0
LABELS = torch.tensor([0, 1, 2, 0, 1])
ANCHORS = torch.tensor([True, False, False, True, False])
NOTHING = paper_preset.losses().model_copy(update={"confusion_weight": 0.0})
WEIGHTS = {
    "confusion_loss": "confusion_weight",
    "original_loss": "original_weight",
    "retention_loss": "retention_weight",
}


CLASSES, NAMES = unit(3, 6, seed=1), unit(8, 6, seed=2)
IMAGES, BASE = unit(5, 6, seed=3), unit(5, 6, seed=4)


def objective(settings: Losses) -> Objective:
    return Objective(settings, CLASSES, NAMES, SCALE)


def test_the_parts_are_the_losses_of_their_names() -> None:
    settings = paper_preset.losses(factor="sum")
    _, parts = objective(settings)(IMAGES, BASE, LABELS, ANCHORS)
    texts = CLASSES[LABELS]
    expected = {
        "confusion_loss": confusion_loss(IMAGES, texts, LABELS, SCALE, "sum"),
        "original_loss": original_loss(IMAGES[[0, 3]], CLASSES, LABELS[[0, 3]], SCALE),
        "retention_loss": distillation_loss(IMAGES[[0, 3]], BASE[[0, 3]], NAMES, SCALE),
    }
    assert parts == {name: value.item() for name, value in expected.items()}


@given(st.lists(st.floats(0, 10), min_size=3, max_size=3))
def test_the_loss_is_the_weighted_sum_of_its_parts(weights: list[float]) -> None:
    settings = NOTHING.model_copy(update=dict(zip(WEIGHTS.values(), weights, strict=True)))
    total, parts = objective(settings)(IMAGES, BASE, LABELS, ANCHORS)
    expected = sum(w * (parts[name] or 0.0) for name, w in zip(WEIGHTS, weights, strict=True))
    assert float(total) == pytest.approx(expected)
    # Parts are told as they are, whatever they weigh.
    assert parts == objective(NOTHING)(IMAGES, BASE, LABELS, ANCHORS)[1]


def test_a_step_by_hand() -> None:
    # Two anchors at scale ln 3, images on their class texts but for the second's base features.
    eye = torch.eye(2, dtype=torch.float64)
    settings = paper_preset.losses(
        confusion_weight=2.0,
        original_weight=3.0,
        retention_weight=7.0,
    )
    total, parts = Objective(settings, eye, eye, math.log(3))(
        eye, eye[[0, 0]], torch.tensor([0, 1]), torch.ones(2) > 0
    )
    log = math.log(4 / 3)
    expected = {
        "confusion_loss": log,
        "original_loss": log,
        "retention_loss": math.log(3) / 4,
    }
    assert parts == pytest.approx(expected)
    assert float(total) == pytest.approx(5 * log + 7 * math.log(3) / 4)


@pytest.mark.parametrize("weight", ["original_weight", "retention_weight"])
def test_only_anchors_count_for_the_original_loss_and_retention(weight: str) -> None:
    images = IMAGES.clone().requires_grad_(True)
    settings = NOTHING.model_copy(update={weight: 1.0})
    total, _ = objective(settings)(images, BASE, LABELS, ANCHORS)
    total.backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert images.grad.any(dim=1).tolist() == ANCHORS.tolist()
    # What representatives show or are called makes no difference.
    others = IMAGES.clone(), BASE.clone(), LABELS.clone()
    for tensor in others:
        tensor[~ANCHORS] = tensor[~ANCHORS].flip(0)
    assert torch.equal(objective(settings)(others[0], others[1], others[2], ANCHORS)[0], total)


@pytest.mark.parametrize(
    ("weights", "needed"),
    [
        ({}, False),
        ({"original_weight": 1.0}, False),
        ({"retention_weight": 0.1}, True),
    ],
)
def test_the_base_model_is_needed_where_something_is_compared_with_it(
    weights: dict[str, float], needed: bool
) -> None:
    of_step = objective(paper_preset.losses(**weights))
    assert of_step.needs_base == needed
    if not needed:
        total, parts = of_step(IMAGES, None, LABELS, ANCHORS)
        assert parts["retention_loss"] is None
        assert torch.equal(total, of_step(IMAGES, BASE, LABELS, ANCHORS)[0])


def test_gate_statistics_by_hand() -> None:
    gates = torch.tensor([[0.75, 0.25], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    found = gate_statistics(gates, ["sample", "difference"])
    entropy = (0.75 * math.log(4 / 3) + 0.25 * math.log(4) + math.log(2)) / 4
    assert found == pytest.approx(
        {
            "sample_expert_weight": 2.25 / 4,
            "commonality_expert_weight": 0.0,
            "difference_expert_weight": 1.75 / 4,
            "sample_expert_share": 0.75,
            "commonality_expert_share": 0.0,
            "difference_expert_share": 0.75,
            "gate_entropy": entropy,
        }
    )


def test_gate_statistics_without_experts_are_all_zero() -> None:
    found = gate_statistics(torch.zeros(4, 0), [])
    assert set(found.values()) == {0.0}
    assert (
        found.keys()
        == gate_statistics(torch.eye(3), ["sample", "commonality", "difference"]).keys()
    )


def test_mixtures_take_the_place_of_anchors_in_the_original_loss_alone() -> None:
    mixtures = torch.tensor([False, False, False, False, True])
    of_step = objective(LOSSES_OF_MIXTURES)
    _, parts = of_step(IMAGES, BASE, LABELS, ANCHORS, mixtures)
    single = slice(0, 4)
    _, without = of_step(IMAGES[single], BASE[single], LABELS[single], ANCHORS[single])
    mixed = original_loss(IMAGES[4:], CLASSES, LABELS[4:], SCALE)
    assert parts["original_loss"] == pytest.approx(mixed.item())
    for name in ("confusion_loss", "retention_loss"):
        assert parts[name] == pytest.approx(without[name])


LOSSES_OF_MIXTURES = paper_preset.losses(original_weight=1.0, original_images="mixtures")
