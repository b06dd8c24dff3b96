"""The residual: nothing at step 0, retention by hand, and what it learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from capt_core import params
from capt_core.methods.clip import class_logits
from capt_core.methods.fitting import FewShotFeatures
from capt_core.methods.residual import Residual, fit_residual, residual_features
from capt_core.methods.retention import distillation_loss

SCALE = 20.0


def few(count: int = 12) -> tuple[FewShotFeatures, torch.Tensor]:
    """Images that zero-shot takes for the next class, and the texts of five classes."""
    generator = torch.Generator().manual_seed(0)
    texts = functional.normalize(torch.randn(5, 8, generator=generator), dim=1)
    labels = torch.arange(3).repeat(count // 3)
    noise = 0.1 * torch.randn(count, 8, generator=generator)
    features = functional.normalize(texts[(labels + 1) % 3] + noise, dim=1)
    return FewShotFeatures(features, labels), texts


def test_step_0_is_the_frozen_feature() -> None:
    images, _ = few()
    model = Residual(8, 16, seed=3)
    torch.testing.assert_close(model(images.features), images.features)
    assert not model.outer.weight.any()
    assert model.inner.weight.any()


def test_the_residual_by_hand() -> None:
    tensors = {
        "inner.weight": torch.tensor([[1.0, 0.0]]),
        "inner.bias": torch.tensor([0.0]),
        "outer.weight": torch.tensor([[0.0], [2.0]]),
        "outer.bias": torch.tensor([0.0, 0.0]),
    }
    # f = (1, 0): W1 f = 1, GELU(1) = 0.8413, so f moves to (1, 1.6827), then to unit length.
    gelu = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    length = math.hypot(1, 2 * gelu)
    found = residual_features(tensors, torch.tensor([[1.0, 0.0]]))
    assert found.tolist()[0] == pytest.approx([1 / length, 2 * gelu / length], abs=1e-6)


def kept_and_right(weight: float) -> tuple[float, float]:
    """Distance from the zero-shot predictions over all five classes, and accuracy on three."""
    images, texts = few()
    settings = params.Residual(
        epochs=40, batch_size=4, hidden=16, learning_rate=0.02, retention_weight=weight
    )
    tensors, log = fit_residual(images, texts[:3], texts, SCALE, settings, seed=1)
    assert len(log) == 120
    moved = residual_features(tensors, images.features)
    right = class_logits(moved, texts[:3], SCALE).argmax(dim=1) == images.labels
    kept = distillation_loss(moved, images.features, texts, SCALE)
    return kept.item(), right.float().mean().item()


def test_it_learns_and_retention_holds_it_back() -> None:
    free, right = kept_and_right(0.0)
    held, _ = kept_and_right(100.0)
    assert right == 1.0
    assert held < 0.1 * free


def test_it_repeats() -> None:
    images, texts = few()
    settings = params.Residual(epochs=2, batch_size=4, hidden=4)
    first, log = fit_residual(images, texts[:3], texts, SCALE, settings, seed=1)
    second, again = fit_residual(images, texts[:3], texts, SCALE, settings, seed=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert log.equals(again)
    other, _ = fit_residual(images, texts[:3], texts, SCALE, settings, seed=2)
    assert not torch.equal(first["inner.weight"], other["inner.weight"])
