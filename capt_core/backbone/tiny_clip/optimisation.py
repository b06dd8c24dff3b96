"""The loop of the two pretraining stages: batches, optimizer, schedule, log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from capt_core.artifacts.files import atomic_path

Log = list[dict[str, float]]
"""Step, mean loss and mean accuracy (per cent), a row for each report."""


@dataclass(frozen=True)
class Schedule:
    """Length and rates of a stage's training."""

    steps: int
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warm_up: int = 150
    report_every: int = 200


@dataclass(frozen=True)
class Checkpoint:
    """Where a stage keeps its state, to be taken up again to the bit.

    Attributes:
        path: the file; its name must change with anything that the training depends on.
        module: holds all that is trained, and what changes beside it (averages of batches).
    """

    path: Path
    module: nn.Module

    def save(self, optimizer: torch.optim.Optimizer, step: int, log: Log) -> None:
        """Write the state after so many steps, atomically."""
        state = {
            "module": self.module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "step": step,
            "log": log,
        }
        with atomic_path(self.path) as temporary:
            torch.save(state, temporary)

    def load(self, optimizer: torch.optim.Optimizer) -> tuple[int, Log]:
        """Restore module, optimizer and random numbers; the finished steps and their log."""
        if not self.path.is_file():
            return 0, []
        state: dict[str, Any] = torch.load(self.path, weights_only=True)
        self.module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        return state["step"], state["log"]


def minimise(
    stage: str,
    settings: Schedule,
    parameters: Sequence[nn.Parameter],
    rows: Iterator[torch.Tensor],
    loss_of: Callable[[int, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    after_step: Callable[[], object] = lambda: None,
    checkpoint: Checkpoint | None = None,
) -> Log:
    """Train parameters with AdamW, without decay of vectors, and gradients clipped to norm 1.

    Args:
        stage: named in what is printed.
        settings: length and rates.
        parameters: what is trained.
        rows: row numbers of each step's batch.
        loss_of: from step and row numbers to the loss and the share of hits, both scalars.
        after_step: called after each optimiser step.
        checkpoint: where the state is kept whenever there is something to report.

    Returns:
        The log.

    Raises:
        RuntimeError: the loss is not finite, or has not fallen.
    """
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), eps=1e-6)
    meter = Meter(stage, settings.batch)
    done, meter.rows = checkpoint.load(optimizer) if checkpoint else (0, [])
    for step in range(settings.steps):
        chosen = next(rows)
        if step < done:
            continue
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate_share(
                step, settings.steps, settings.warm_up
            )
        loss, hits = loss_of(step, chosen)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        after_step()
        meter.add(loss.item(), hits.item())
        if (step + 1) % settings.report_every == 0 or step + 1 == settings.steps:
            meter.report(step + 1)
            if checkpoint:
                checkpoint.save(optimizer, step + 1, meter.rows)
    meter.check()
    return meter.rows


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Endless batches of row numbers, each row once per pass."""
    while True:
        order = torch.from_numpy(rng.permutation(count))
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def rate_share(step: int, steps: int, warm_up: int) -> float:
    """Share of the base learning rate: linear warm-up times a cosine to zero."""
    return min(1.0, (step + 1) / warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


class Meter:
    """Means of loss and accuracy between reports, printed and kept."""

    def __init__(self, stage: str, batch: int) -> None:
        self.rows: Log = []
        self._stage = stage
        self._batch = batch
        self._losses: list[float] = []
        self._hits: list[float] = []
        self._started = time.monotonic()

    def add(self, loss: float, hits: float) -> None:
        """Note one step; raise RuntimeError when its loss is not finite."""
        if not math.isfinite(loss):
            raise RuntimeError(f"{self._stage}: the loss is {loss}")
        self._losses.append(loss)
        self._hits.append(hits)

    def report(self, step: int) -> None:
        """Print the means since the last report and start afresh."""
        loss, hits = float(np.mean(self._losses)), 100 * float(np.mean(self._hits))
        self._losses, self._hits = [], []
        self.rows.append({"step": step, "loss": round(loss, 4), "accuracy": round(hits, 2)})
        speed = step * self._batch / (time.monotonic() - self._started)
        print(
            f"{self._stage}: step {step} loss {loss:.3f} accuracy {hits:.1f} % "
            f"({speed:.0f} images/s)",
            flush=True,
        )

    def check(self) -> None:
        """Raise RuntimeError unless the loss has fallen: a dead learning rate must not pass."""
        if len(self.rows) > 1 and self.rows[-1]["loss"] >= self.rows[0]["loss"]:
            raise RuntimeError(f"{self._stage}: the loss did not fall")
