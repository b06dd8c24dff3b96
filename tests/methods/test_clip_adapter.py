"""CLIP-Adapter: its formula by hand, against torch's own layers, and at any scale."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from capt_core.methods.clip_adapter import ClipAdapter, ClipAdapterSettings, adapted_feature
from capt_core.methods.task import Task


def test_the_adapted_feature_by_hand() -> None:
    # f = (3, 4): f W1 = 3 - 4 = -1 and 3 + 4 = 7, ReLU leaves (0, 7); times W2 gives (-7, 14),
    # ReLU leaves (0, 14). Ratio 0.5: (1.5, 2 + 7) = (1.5, 9), then unit length.
    down = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    up = torch.tensor([[5.0, 0.0], [-1.0, 2.0]])
    found = adapted_feature(torch.tensor([[3.0, 4.0]]), down, up, 0.5)
    length = math.hypot(1.5, 9)
    assert found.tolist()[0] == pytest.approx([1.5 / length, 9 / length])


@given(st.integers(0, 999), st.floats(0.0, 1.0), st.floats(0.1, 50.0))
def test_it_is_the_published_module_at_any_scale(seed: int, ratio: float, scale: float) -> None:
    # The published code adapts the tower's own output: linear, ReLU, linear, ReLU, then
    # ratio x adapted + (1 - ratio) x input, divided by its norm.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Linear(8, 2, bias=False), nn.ReLU(), nn.Linear(2, 8, bias=False), nn.ReLU()
        ).double()
        features = torch.randn(5, 8, dtype=torch.float64) + 0.1
    blended = ratio * layers(features) + (1 - ratio) * features
    norms = blended.norm(dim=1, keepdim=True)
    kept = (norms > 1e-6)[:, 0]
    first, second = layers[0], layers[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    weights = first.weight.T, second.weight.T
    for given_features in (features, scale * features, functional.normalize(features, dim=1)):
        found = adapted_feature(given_features, *weights, ratio)
        torch.testing.assert_close(found[kept], (blended / norms)[kept])


def test_the_bottleneck_has_the_width_that_the_settings_ask_for(task: Task) -> None:
    assert task.features is not None
    width = task.features().shape[1]
    for reduction, hidden in ((4, width // 4), (10 * width, 1)):
        found = ClipAdapter(ClipAdapterSettings(reduction=reduction, epochs=1)).fit(task)
        assert found.down.weight.shape == (hidden, width)
        assert found.up.weight.shape == (width, hidden)
        assert found.down.bias is found.up.bias is None
