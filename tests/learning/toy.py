"""A small training without any method: a line with a gate, fitted to noisy numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from capt_core.learning.checkpoint import Checkpoint
from capt_core.learning.loop import Batch, Loop, Record
from capt_core.learning.optimisation import Optimisation, ParameterGroup
from capt_core.learning.randomness import generator

COUNT = 7
SECTION = "methods.toy"


def optimisation(**changes: Any) -> Optimisation:
    """Gradient descent at a constant rate of 0.1: one epoch, without momentum and decay."""
    plain = {
        "epochs": 1,
        "batch_size": 2,
        "accumulate": 1,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "warmup_epochs": 0,
        "warmup_learning_rate": 1e-5,
    }
    return Optimisation.model_validate({**plain, **changes})


class Line(nn.Module):
    """gate * (w . x), with a count of the rows it has seen as state that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
        self.gate = nn.Parameter(torch.tensor(0.5))
        self.seen: torch.Tensor
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.gate * (inputs @ self.weight)


def toy_loop(
    settings: Optimisation,
    checkpoint: Checkpoint | None = None,
    *,
    gate_rate: float = 1.0,
    noise: float = 0.1,
    watch: Callable[[Batch], None] = lambda _: None,
    **arguments: Any,
) -> Loop:
    """A loop over seven samples; equal arguments give equal trainings.

    Args:
        settings: of the training.
        checkpoint: where the state is kept.
        gate_rate: how many times the learning rate the gate learns at.
        noise: that every forward pass adds to the targets.
        watch: called with every batch.
        arguments: further ones of `Loop`.
    """
    draws = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(COUNT, 3, generator=draws), torch.randn(COUNT, generator=draws)
    line = Line()

    def loss_of(batch: Batch) -> tuple[torch.Tensor, Record]:
        watch(batch)
        line.seen += len(batch.samples)
        draw = torch.randn(1, generator=generator("noise", batch.step, batch.number))
        errors = line(inputs[batch.samples]) - targets[batch.samples] - noise * draw
        loss = (errors**2).mean()
        return loss, {"seen": line.seen.item(), "draw": draw.item(), "never": None}

    groups = [ParameterGroup([line.weight]), ParameterGroup([line.gate], gate_rate)]
    return Loop(line, groups, COUNT, loss_of, settings, SECTION, 1, checkpoint, **arguments)


class Stopped(Exception):  # noqa: N818
    """Stands for a kill."""


def interrupt(running: Any, after: int) -> None:
    """Fit a `Loop` or a `Trainer` until that many steps are done, and stop it there."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done >= after:
            raise Stopped

    running.advance = advance
    with pytest.raises(Stopped):
        running.fit()
