"""The training loop of CAPT."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl
import torch
from torch.nn import functional

from capt_core import params
from capt_core.artifacts.schemas import TRAINING_LOG
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.methods.capt.experts import Masks
from capt_core.methods.capt.model import CaptModel
from capt_core.training.checkpoint import Checkpoint
from capt_core.training.objective import Objective, gate_statistics
from capt_core.training.processes import Processes
from capt_core.training.randomness import generator
from capt_core.training.rows import Anchor, build_rows, epoch_batches
from capt_core.training.schedule import epoch_learning_rates
from capt_core.training.views import View, Views
from capt_core.training.watch import LOOK_AFTER, loss_warning, schedule_warning

MAX_ROWS = 1_000_000  # more rows than any batch has: numbers of fresh views never repeat


Record = dict[str, float | None]
"""What the log says of one step, by column; None where a part was not computed."""


@dataclass(frozen=True)
class TrainingTask:
    """What is learnt from.

    Attributes:
        anchors: training images with their representatives.
        labels: class id of every sample of the data set, by sample id.
        objective: the losses, with the text features they need.
        views: gives the frozen prefix of views.
    """

    anchors: Sequence[Anchor]
    labels: Sequence[int]
    objective: Objective
    views: Views


@dataclass(frozen=True)
class Fitted:
    """What training reports.

    Attributes:
        log: rows as in the table `training_log`.
        speed: step, rows, seconds and rows per second of the steps of this run (not of those
            before an interruption); not part of the log, whose bytes repeat.
    """

    log: pl.DataFrame
    speed: pl.DataFrame


@dataclass
class Trainer:
    """Trains the adapters and experts of a model; the backbone stays as it is.

    Attributes:
        model: on the backbone's device; changed in place.
        backbone: frozen CLIP the model wraps.
        task: training data and losses.
        settings: the `train` section.
        seed: of the order of batches, views, masks and noise.
        checkpoint: where to keep what is needed to go on after a kill; None keeps nothing.
        advance: told 1 after each optimiser step.
        warn: told a line when nothing seems to be learnt.
        processes: those that share the work.
    """

    model: CaptModel
    backbone: Backbone
    task: TrainingTask
    settings: params.Train
    seed: int
    checkpoint: Checkpoint | None = None
    advance: Callable[[int], None] = lambda _: None
    warn: Callable[[str], None] = lambda _: None
    processes: Processes | None = None
    _log: list[Record] = field(default_factory=list, init=False)
    _warned: bool = field(default=False, init=False)

    def fit(self) -> Fitted:
        """Run all steps that are not yet done."""
        settings, model = self.settings, self.model
        processes = self.processes or Processes(self.backbone.device)
        check_trainable(model)
        optimizer = make_optimizer(model, settings)
        rates = epoch_learning_rates(
            settings.learning_rate,
            settings.epochs,
            settings.warmup_epochs,
            settings.warmup_learning_rate,
        )
        warning = schedule_warning(settings, rates)
        if warning:
            self.warn(warning)
        done = 0
        if self.checkpoint:
            kept = self.checkpoint.path.is_file()
            done, self._log = self.checkpoint.load(model, optimizer)
            if kept and not done:
                self.warn(
                    f"{self.checkpoint.path}: not a readable checkpoint, training starts anew"
                )
            self.advance(done)
        speed: list[tuple[int, int, float]] = []
        losses = [
            record["loss"] or 0.0
            for record in self._log
            if (record["epoch"] or 0) > settings.warmup_epochs
        ]
        for step, epoch, batches in self._steps():
            if step <= done:
                continue
            set_learning_rate(optimizer, rates[epoch - 1])
            began = time.perf_counter()
            record = self._step(step, batches, optimizer, processes)
            check_finite(record["loss"] or 0.0, step)
            speed.append((step, int(record["rows"] or 0), time.perf_counter() - began))
            self._log.append(
                {"step": step, "epoch": epoch, "learning_rate": rates[epoch - 1], **record}
            )
            if epoch > settings.warmup_epochs:
                losses.append(record["loss"] or 0.0)
                self._warn_once(losses)
            if self.checkpoint and self.checkpoint.every and step % self.checkpoint.every == 0:
                if processes.first:
                    self.checkpoint.save(model, optimizer, step, self._log)
                processes.wait()
            self.advance(1)
        model.interpolate(settings.interpolation)
        return Fitted(
            pl.DataFrame(self._log, schema=dict(TRAINING_LOG.columns)),
            pl.DataFrame(
                speed,
                schema={"step": pl.Int64, "rows": pl.Int64, "seconds": pl.Float64},
                orient="row",
            ).with_columns((pl.col("rows") / pl.col("seconds")).alias("rows_per_second")),
        )

    def _warn_once(self, losses: Sequence[float]) -> None:
        if self._warned or len(losses) % LOOK_AFTER:
            return
        warning = loss_warning(losses)
        if warning:
            self.warn(warning)
            self._warned = True

    @property
    def step_count(self) -> int:
        """Optimiser steps of the whole training."""
        return sum(1 for _ in self._steps())

    def _steps(self) -> Iterator[tuple[int, int, list[list[Anchor]]]]:
        """Number, epoch and batches of every optimiser step; each accumulates its batches."""
        step = 0
        for epoch in range(1, self.settings.epochs + 1):
            order = generator("order", self.seed, epoch)
            batches = list(epoch_batches(self.task.anchors, self.settings.batch_size, order))
            for start in range(0, len(batches), self.settings.accumulate):
                step += 1
                yield step, epoch, batches[start : start + self.settings.accumulate]

    def _step(
        self,
        step: int,
        batches: Sequence[Sequence[Anchor]],
        optimizer: torch.optim.Optimizer,
        processes: Processes,
    ) -> Record:
        optimizer.zero_grad()
        records = []
        for number, batch in enumerate(batches):
            loss, record = self._forward(step, number, batch, processes)
            (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
            records.append(record)
        processes.average_gradients(self.model.parameters())
        optimizer.step()
        return mean_record(records) | {"rows": sum(r["rows"] or 0 for r in records)}

    def _forward(
        self, step: int, number: int, batch: Sequence[Anchor], processes: Processes
    ) -> tuple[torch.Tensor, Record]:
        model, device = self.model, self.backbone.device
        adapter = model.adapter_settings
        rows = build_rows(batch, self.task.labels, model.running_alpha.item(), adapter.anchor_alpha)
        model.observe_alpha(rows.alphas[rows.retrieved], adapter.momentum)
        count = len(rows.sample_ids)
        mine = processes.share(count)
        views = self._views_of(step, number, rows.sample_ids, rows.anchors)
        prefix = self.task.views([views[row] for row in mine])
        masks = self._masks(step, number, count)
        with self.backbone.precision():
            features, gates = model.features(
                prefix.tokens,
                rows.alphas[mine].to(device),
                None if masks is None else masks.rows(mine, device),
                class_token_only=True,
            )
        images = processes.gather(functional.normalize(features.float(), dim=-1), count)
        gates = processes.gather(gates.float(), count)
        base = None
        if prefix.features is not None and self.task.objective.needs_base:
            base = processes.gather(prefix.features, count)
        loss, parts = self.task.objective(
            images, base, gates, rows.labels.to(device), rows.anchors.to(device)
        )
        alphas = model.used_alpha(rows.alphas.to(device)).detach()
        return loss, {
            "loss": loss.item(),
            **parts,
            "rows": count,
            "alpha_mean": alphas.mean().item(),
            "alpha_min": alphas.min().item(),
            "alpha_max": alphas.max().item(),
            "alpha_running": model.running_alpha.item(),
            "residual_gate": model.experts.residual_gate.item(),
            **gate_statistics(gates.detach(), model.experts.names),
        }

    def _views_of(
        self, step: int, number: int, sample_ids: Sequence[int], anchors: torch.Tensor
    ) -> list[View]:
        """Which view of each row is seen: drawn among a fixed number, or never seen before."""
        count = len(sample_ids)
        if self.settings.augmentation == "none":
            numbers = [0] * count
        elif self.settings.views:
            draws = generator("views", self.seed, step, number)
            numbers = torch.randint(self.settings.views, (count,), generator=draws).tolist()
        else:
            first = (step * self.settings.accumulate + number) * MAX_ROWS
            numbers = list(range(first, first + count))
        noise = self.settings.representative_noise > 0
        return [
            View(sample_id, chosen, noise and not anchor)
            for sample_id, chosen, anchor in zip(sample_ids, numbers, anchors.tolist(), strict=True)
        ]

    def _masks(self, step: int, number: int, rows: int) -> Masks | None:
        rate, names = self.model.experts_settings.mask_rate, self.model.experts.names
        if rate == 0 or not names:
            return None
        draws = generator("masks", self.seed, step, number)
        return Masks.draw(len(names), rows, self.model.width, rate, draws)


def check_trainable(model: CaptModel) -> None:
    """Refuse a model that has nothing but its residual gate.

    Raises:
        CaptError: no block carries an adapter and no expert is used.
    """
    if not model.adapters and not model.experts.names:
        raise CaptError(
            "adapter.blocks is 0 and experts.granularities is empty, so nothing can be trained; "
            "give one of them parts"
        )


def check_finite(loss: float, step: int) -> None:
    """Stop a training whose loss is no number any more: nothing comes of its weights.

    Raises:
        CaptError: the loss is infinite or NaN.
    """
    if not math.isfinite(loss):
        raise CaptError(f"the loss is {loss} at step {step}; lower train.learning_rate")


def mean_record(records: Sequence[Record]) -> Record:
    """Column by column, the mean over the batches of a step."""
    means: Record = {}
    for name in records[0]:
        values = [value for record in records if (value := record[name]) is not None]
        means[name] = sum(values) / len(values) if values else None
    return means


def make_optimizer(model: CaptModel, settings: params.Train) -> torch.optim.Optimizer:
    """The optimiser; the residual gate is a group of its own, with `gate_rate` times the rate."""
    gate = model.experts.residual_gate
    groups = [
        {"params": [p for p in model.parameters() if p is not gate], "factor": 1.0},
        {"params": [gate], "factor": settings.gate_rate},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        groups,
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate to `rate` times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
