"""Averages of what a training passed through, by hand."""

from __future__ import annotations

from math import exp

import pytest
import torch
from torch import nn

from capt_core.learning.averaging import StateAverage, gaussian_weights


def test_gaussian_weights_by_hand() -> None:
    # e^(-1/2) : 1 : e^(-1/2)
    side = exp(-0.5) / (1 + 2 * exp(-0.5))
    assert gaussian_weights(3, 2, 1).tolist() == pytest.approx([side, 1 - 2 * side, side])
    # A mean that is far away leaves the nearest epoch, and no division by zero.
    assert gaussian_weights(3, 1000, 1).tolist() == pytest.approx([0, 0, 1])


def test_the_sum_replaces_the_parameters_at_the_end() -> None:
    line = nn.Linear(1, 1)
    average = StateAverage(line, [0.25, 0.75])
    for epoch, value in enumerate((4.0, 8.0), start=1):
        with torch.no_grad():
            for parameter in line.parameters():
                parameter.fill_(value)
        average.add(epoch)
    assert line.weight.item() == 8
    average.load()
    assert (line.weight.item(), line.bias.item()) == (7, 7)
    assert {name for name, _ in average.named_parameters()} == {"module.weight", "module.bias"}
