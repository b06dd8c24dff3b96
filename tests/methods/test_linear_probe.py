"""The linear probe: its own optimum, both halves, and the choice of its strength."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.methods.linear_probe import (
    STRENGTHS,
    LinearProbe,
    LinearProbeSettings,
    Probe,
    fit_half,
)
from capt_core.methods.task import FewShotFeatures, Task
from tests.methods.toy_task import with_features
from tests.refusals import refusal
from tests.toys import toy_dataset


def scattered(labels: torch.Tensor, spread: float = 0.4, width: int = 6) -> torch.Tensor:
    """Unit features about one axis per class."""
    noise = torch.randn(len(labels), width, generator=torch.Generator().manual_seed(0))
    return functional.normalize(torch.eye(width)[labels] + spread * noise, dim=1)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_gradient_of_the_penalised_likelihood_vanishes(classes: int) -> None:
    # An independent statement of what is minimised: C x summed cross-entropy + |W|^2 / 2.
    labels = torch.arange(classes).repeat(8)
    features, strength = scattered(labels), 2.0
    weight, bias = fit_half(
        [4, 7, 9][:classes],
        FewShotFeatures(features, torch.tensor([4, 7, 9])[labels]),
        strength,
        LinearProbeSettings(max_iterations=5000),
    )
    weight, bias = weight.double().requires_grad_(), bias.double().requires_grad_()
    if classes == 2:
        # One row of coefficients w stands for (-w / 2, w / 2); the penalty is on w.
        penalty = (weight[1] - weight[0]).square().sum() / 2
    else:
        penalty = weight.square().sum() / 2
    loss = functional.cross_entropy(features.double() @ weight.T + bias, labels, reduction="sum")
    (strength * loss + penalty).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.abs().max() < 1e-2
    assert bias.grad.abs().max() < 1e-2


def drawn(backbone: Backbone, split_of: list[str], spread: float = 0.4) -> Task:
    classes = [index % 4 for index in range(len(split_of))]  # base: 0, 1; novel: 2, 3
    dataset = toy_dataset(classes, 4)
    rows = dataset.samples.with_columns(split=pl.Series(split_of))
    features = scattered(torch.tensor(classes), spread)
    return Task(dataset, rows, backbone, seed=1, shots=16, features=lambda: features)


def fit(task: Task, strength: float | None = None) -> Probe:
    return LinearProbe(LinearProbeSettings(strength=strength)).fit(task)


def parts(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels of all samples."""
    assert task.features is not None
    return task.features(), torch.tensor(task.dataset.samples["class_id"].to_list())


def test_each_half_is_told_apart_by_its_own_images(backbone: Backbone) -> None:
    task = drawn(backbone, ["train"] * 24 + ["val"] * 8)
    features, labels = parts(task)
    found = fit(task, 100.0)
    assert found.strength.tolist() == [100.0, 100.0]
    logits = features @ found.weight.T + found.bias
    for half in ([0, 1], [2, 3]):
        members = (labels[:, None] == torch.tensor(half)).any(dim=1)
        taken = torch.tensor(half)[logits[members][:, half].argmax(dim=1)]
        assert (taken == labels[members]).float().mean() > 0.9
    # Images of one half do not touch the probe of the other.
    moved = features.clone()
    moved[labels >= 2] = functional.normalize(moved[labels >= 2].flip(1), dim=1)
    other = fit(with_features(task, moved), 100.0)
    assert torch.equal(other.weight[:2], found.weight[:2])
    assert not torch.equal(other.weight[2:], found.weight[2:])


def test_the_likeliest_strength_is_chosen(backbone: Backbone) -> None:
    task = drawn(backbone, ["train"] * 24 + ["val"] * 8, spread=1.0)
    features, labels = parts(task)
    for half, strength in zip(([0, 1], [2, 3]), fit(task).strength.tolist(), strict=True):
        val = [i for i in range(24, 32) if labels[i] in half]
        losses = []
        for candidate in STRENGTHS:
            found = fit(task, candidate)
            logits = (features @ found.weight.T + found.bias)[val][:, half]
            picked = logits.softmax(dim=1)[range(len(val)), (labels[val] == half[1]).long()]
            losses.append(-picked.log().mean().item())
        assert strength == pytest.approx(STRENGTHS[losses.index(min(losses))])
        assert STRENGTHS[0] < strength < STRENGTHS[-1]


def test_nothing_to_choose_with_is_refused(backbone: Backbone) -> None:
    assert "set methods.linear_probe.strength" in refusal(fit, drawn(backbone, ["train"] * 8))


def test_a_single_class_needs_no_probe() -> None:
    weight, bias = fit_half(
        [5], FewShotFeatures(torch.eye(2), torch.tensor([5, 5])), 1.0, LinearProbeSettings()
    )
    assert (weight.tolist(), bias.tolist()) == ([[0.0, 0.0]], [0.0])
