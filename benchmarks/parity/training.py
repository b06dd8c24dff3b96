"""A fixture's training, through the loop that methods are fitted with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.parity.fixture import Fixture, Tensors
from capt_core.learning.loop import Loop, Record
from capt_core.learning.optimisation import ParameterGroup

Loss = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Record]]
"""Of what a batch holds and its labels."""


def schedule(fixture: Fixture) -> dict[str, Any]:
    """The settings of an `Optimisation` that a fixture's configuration holds."""
    config = fixture.config
    return {
        "epochs": config["epochs"],
        "batch_size": _batch_size(fixture),
        "learning_rate": config["lr"],
        "momentum": config["momentum"],
        "weight_decay": config["weight_decay"],
        "warmup_epochs": config.get("warmup_epochs", 1),
        "warmup_learning_rate": config["warmup_lr"],
    }


_PACES = {
    "epochs": "epochs",
    "lr": "learning_rate",
    "warmup_epochs": "warmup_epochs",
    "warmup_lr": "warmup_learning_rate",
    "weight_decay": "weight_decay",
}


def paces(fixture: Fixture) -> dict[str, Any]:
    """Settings of an `Optimisation` that a configuration may hold, where it does."""
    config = fixture.config
    return {ours: config[theirs] for theirs, ours in _PACES.items() if theirs in config}


def steps_of(fixture: Fixture, rates: str, otherwise: int) -> int:
    """How many steps were recorded: as many as there are learning rates of this name."""
    return len(fixture.expected[rates]) if rates in fixture.expected else otherwise


def gradients(loss: torch.Tensor, parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    """Of a loss by each parameter; zeros where it does not reach."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, found, strict=True)
    ]


def _batch_size(fixture: Fixture) -> int:
    """Images of a batch: labels where there are any, the images themselves else."""
    inputs = fixture.inputs
    return len(inputs["labels"] if "labels" in inputs else inputs["images"])


def train(
    fixture: Fixture,
    settings: Any,
    module: nn.Module,
    loss_of: Loss,
    given: torch.Tensor,
    steps: int | None,
    after_epoch: Callable[[int], None] = lambda _: None,
) -> Tensors:
    """Train a module in place on one batch again and again.

    Args:
        fixture: labels and steps of an epoch.
        settings: of the method.
        module: all its parameters are trained.
        loss_of: of the method.
        given: images or their features; those of a teacher take the place of missing labels.
        steps: how many; None trains all epochs.
        after_epoch: see `Loop`.

    Returns:
        `step_losses` and `learning_rates`, each [steps].
    """
    labels = fixture.inputs.get("labels", given)
    log = Loop(
        module,
        [ParameterGroup(list(module.parameters()))],
        _batch_size(fixture) * fixture.config["batches_per_epoch"],
        lambda _: loss_of(given, labels),
        settings,
        "parity",
        0,
        last_step=steps,
        after_epoch=after_epoch,
    ).fit()
    return {
        "step_losses": torch.tensor(log.log["loss"].to_list(), dtype=torch.float64),
        "learning_rates": torch.tensor(log.log["learning_rate"].to_list(), dtype=torch.float64),
    }
