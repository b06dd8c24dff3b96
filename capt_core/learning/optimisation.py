"""Optimiser, learning rates and batch order of a training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from capt_core.learning.randomness import generator
from capt_core.settings_file import Section, packaged


class Descent(Section):
    """Settings of stochastic gradient descent, as every trained method has them."""

    batch_size: int = packaged(ge=1, le=65_536)
    accumulate: int = packaged(ge=1, le=65_536)
    optimizer: Literal["sgd", "adamw"] = packaged()
    learning_rate: float = packaged(gt=0, le=1000)
    momentum: float = packaged(ge=0, lt=1)
    weight_decay: float = packaged(ge=0, le=1000)


class Optimisation(Descent):
    """Settings of a training over epochs, each with its own learning rate."""

    epochs: int = packaged(ge=1, le=100_000)
    warmup_epochs: int = packaged(ge=0, le=100_000)
    warmup_learning_rate: float = packaged(gt=0, le=1000)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that learn at `factor` times the learning rate."""

    parameters: Sequence[torch.nn.Parameter]
    factor: float = 1.0


def make_optimizer(
    groups: Sequence[ParameterGroup], settings: Optimisation
) -> torch.optim.Optimizer:
    """The optimiser that the settings name, over parameter groups."""
    named = [{"params": list(group.parameters), "factor": group.factor} for group in groups]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(named, settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        named,
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate to `rate` times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


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


def step_learning_rates(base: float, steps: int, least: float) -> list[float]:
    """A cosine from the base rate towards the least one, which it would reach after the last step.

    Returns:
        One rate per optimiser step.
    """
    cosines = ((1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps))
    return [least + (base - least) * cosine for cosine in cosines]


def epoch_batches(
    count: int, batch_size: int, seed: int, epoch: int, *, keep_incomplete: bool = False
) -> Iterator[list[int]]:
    """Shuffled batches of sample positions of one epoch.

    An incomplete last batch is dropped unless it is the only one, as the CoOp line does, or it is
    asked for.

    Args:
        count: number of samples.
        batch_size: samples per batch.
        seed: of the training.
        epoch: counts from 1; every epoch has an order of its own.
        keep_incomplete: keep an incomplete last batch.
    """
    order = torch.randperm(count, generator=generator("order", seed, epoch)).tolist()
    size = min(batch_size, count)
    for start in range(0, count if keep_incomplete else count - size + 1, size):
        yield order[start : start + size]
