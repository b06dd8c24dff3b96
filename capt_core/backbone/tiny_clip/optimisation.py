"""What the two pretraining stages share: batches, optimizer, schedule, log, atomic writing."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Endless batches of row numbers, each row once per pass."""
    while True:
        order = torch.from_numpy(rng.permutation(count))
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def adamw(
    parameters: Iterable[tuple[str, nn.Parameter]], learning_rate: float, weight_decay: float
) -> tuple[torch.optim.Optimizer, Callable[[float], None]]:
    """AdamW without decay of vectors, and a function that sets its rate to a share of the base."""
    tensors = [p for _, p in parameters]
    groups = [
        {"params": [p for p in tensors if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in tensors if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6)

    def rate(share: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * share

    return optimizer, rate


def rate_share(step: int, steps: int, warm_up: int) -> float:
    """Share of the base learning rate: linear warm-up times a cosine to zero."""
    return min(1.0, (step + 1) / warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


class Meter:
    """Means of loss and accuracy between reports, printed and kept."""

    def __init__(self, stage: str, batch: int) -> None:
        self.rows: list[dict[str, float]] = []
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


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file so that no reader ever sees half of it."""
    partial = path.with_suffix(".partial")
    save_file({name: t.contiguous() for name, t in tensors.items()}, partial)
    partial.chmod(0o644)  # safetensors makes it private
    os.replace(partial, path)
