"""Learning rates by epoch."""

from __future__ import annotations

import math


def epoch_learning_rates(
    base: float, epochs: int, warmup_epochs: int, warmup_rate: float
) -> list[float]:
    """A constant warm-up, then a cosine over all epochs (the CoOp line's schedule).

    The cosine starts at the base rate right after the warm-up but is stretched over the full
    number of epochs, so that the last rate stays above zero.

    Returns:
        One rate per epoch.
    """
    rates = []
    for epoch in range(epochs):
        progress = (epoch - warmup_epochs) / epochs
        cosine = base * (1 + math.cos(math.pi * progress)) / 2
        rates.append(warmup_rate if epoch < warmup_epochs else cosine)
    return rates
