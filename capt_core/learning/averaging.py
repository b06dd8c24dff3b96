"""Weighted averages of what a training passed through."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def gaussian_weights(epochs: int, mean: float, deviation: float) -> torch.Tensor:
    """Weights of the epochs 1 to `epochs`: a normal density at each, divided by their sum.

    Args:
        epochs: E.
        mean: epoch of the largest weight.
        deviation: standard deviation in epochs.

    Returns:
        [E] in fp64.
    """
    numbers = torch.arange(1, epochs + 1, dtype=torch.float64)
    return (-((numbers - mean) ** 2) / (2 * deviation**2)).softmax(dim=0)


def uniform_weights(epochs: int) -> torch.Tensor:
    """The same weight for each epoch, [E] in fp64."""
    return torch.full((epochs,), 1 / epochs, dtype=torch.float64)


class StateAverage(nn.Module):
    """A module with the weighted sum of its parameters so far.

    Trained and checkpointed in place of the module, so that an interrupted training goes on with
    the sum it had.

    Args:
        module: whose parameters are averaged; part of this one's state.
        weights: of each epoch, [E], with the sum 1.
    """

    def __init__(self, module: nn.Module, weights: Sequence[float] | torch.Tensor) -> None:
        super().__init__()
        self.module = module
        self.weights = [float(weight) for weight in weights]
        for index, parameter in enumerate(module.parameters()):
            self.register_buffer(f"sum_{index}", torch.zeros_like(parameter, requires_grad=False))

    @torch.no_grad()
    def add(self, epoch: int) -> None:
        """Add the parameters after an epoch, counted from 1, by its weight."""
        for index, parameter in enumerate(self.module.parameters()):
            self.get_buffer(f"sum_{index}").add_(parameter, alpha=self.weights[epoch - 1])

    @torch.no_grad()
    def load(self) -> None:
        """Make the sums the module's parameters."""
        for index, parameter in enumerate(self.module.parameters()):
            parameter.copy_(self.get_buffer(f"sum_{index}"))
