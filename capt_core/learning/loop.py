"""The training loop: one for all methods."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
import torch

from capt_core.errors import CaptError
from capt_core.learning.checkpoint import Checkpoint
from capt_core.learning.optimisation import (
    Descent,
    Optimisation,
    ParameterGroup,
    epoch_batches,
    make_optimizer,
    set_learning_rate,
)
from capt_core.learning.processes import Processes
from capt_core.learning.watch import CHECK_EVERY, loss_warning, schedule_warning
from capt_core.reporter import Advance

Record = Mapping[str, float | None]
"""What the log says of one step, by column; None where a part was not computed."""

_COUNTS = ("step", "epoch", "rows")


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    Attributes:
        step: number of the optimiser step, from 1.
        number: of this forward pass within the step, from 0.
        samples: positions of the samples, [B].
        epoch: that the step belongs to, from 1.
    """

    step: int
    number: int
    samples: list[int]
    epoch: int


@dataclass(frozen=True)
class Trained:
    """What a training reports.

    Attributes:
        log: rows as in the table `training_log`.
        speed: step, rows, seconds and rows per second of the steps of this run (not of those
            before an interruption); not part of the log, whose bytes repeat.
        checkpoint: to be removed once the result is written.
        parameters: how many numbers were trained.
    """

    log: pl.DataFrame
    speed: pl.DataFrame
    checkpoint: Checkpoint | None = None
    parameters: int = 0

    @property
    def interrupted(self) -> bool:
        """Whether some steps were done by an earlier run."""
        return self.speed.height < self.log.height


@dataclass
class Loop:
    """Minimises a method's loss over shuffled batches of its samples.

    Attributes:
        module: its state is what a checkpoint holds; changed in place.
        groups: the parameters that are trained.
        count: number of samples.
        loss_of: the loss of a forward pass, with gradients, and what the log says of it.
        settings: optimiser and sizes, and the schedule unless `stages` is given.
        section: path of these settings in params.yaml, for messages.
        seed: of the order of batches.
        checkpoint: where the state is kept that a killed training goes on from; None keeps none.
        advance: called with 1 after each optimiser step.
        warn: called with a line when nothing seems to be learnt.
        processes: those that share the work; gradients are averaged over them.
        last_step: optimiser step to end with, counted from 1; None runs all epochs.
        after_epoch: called with the number of an epoch, from 1, after its last step; what it keeps
            in the state of `module` is part of a checkpoint.
        stages: learning rates of the optimiser steps, stage by stage, for a schedule by steps: each
            stage begins a new epoch, and epochs keep their incomplete last batches. None takes the
            epochs of `settings`, which are then an `Optimisation`.
    """

    module: torch.nn.Module
    groups: Sequence[ParameterGroup]
    count: int
    loss_of: Callable[[Batch], tuple[torch.Tensor, Record]]
    settings: Descent
    section: str
    seed: int
    checkpoint: Checkpoint | None = None
    advance: Advance = lambda _: None
    warn: Callable[[str], None] = lambda _: None
    processes: Processes = field(default_factory=Processes)
    last_step: int | None = None
    after_epoch: Callable[[int], None] = lambda _: None
    stages: Sequence[Sequence[float]] | None = None
    _log: list[dict[str, float | None]] = field(default_factory=list, init=False)
    _warned: bool = field(default=False, init=False)

    def fit(self) -> Trained:
        """Run all steps that are not yet done.

        Raises:
            CaptError: the loss is no finite number any more.
        """
        optimizer = make_optimizer(self.groups, self.settings)
        warmup_epochs = 0
        if self.stages is None:
            assert isinstance(self.settings, Optimisation)
            warmup_epochs = self.settings.warmup_epochs
            warning = schedule_warning(self.settings, self.settings.rates, self.section)
            if warning:
                self.warn(warning)
        done = self._resume(optimizer)
        self.advance(done)
        speed: list[tuple[int, int, float]] = []
        losses = [
            record["loss"] or 0.0 for record in self._log if (record["epoch"] or 0) > warmup_epochs
        ]
        for step, epoch, rate, batches, ends in self._steps():
            if step <= done:
                continue
            set_learning_rate(optimizer, rate)
            began = time.perf_counter()
            record = self._step(batches, optimizer)
            loss = record["loss"] or 0.0
            self._check_finite(loss, step)
            speed.append((step, int(record["rows"] or 0), time.perf_counter() - began))
            self._log.append({"step": step, "epoch": epoch, "learning_rate": rate, **record})
            if epoch > warmup_epochs:
                losses.append(loss)
                self._warn_once(losses)
            if ends:
                self.after_epoch(epoch)
            if self.checkpoint and self.checkpoint.every and step % self.checkpoint.every == 0:
                if self.processes.first:
                    self.checkpoint.save(self.module, optimizer, step, self._log)
                self.processes.wait()
            self.advance(1)
        return Trained(
            log_frame(self._log),
            pl.DataFrame(
                speed,
                schema={"step": pl.Int64, "rows": pl.Int64, "seconds": pl.Float64},
                orient="row",
            ).with_columns((pl.col("rows") / pl.col("seconds")).alias("rows_per_second")),
            self.checkpoint,
            sum(each.numel() for group in self.groups for each in group.parameters),
        )

    @property
    def step_count(self) -> int:
        """Optimiser steps of the whole training."""
        return sum(1 for _ in self._steps())

    def _resume(self, optimizer: torch.optim.Optimizer) -> int:
        """Finished steps of an earlier run, whose state is restored."""
        if self.checkpoint is None:
            return 0
        done, self._log = self.checkpoint.load(self.module, optimizer, self.warn)
        return done

    def _rates(self) -> Iterator[Sequence[float]]:
        """Learning rates of the steps of each epoch."""
        size = -(-len(self._batches(1)) // self.settings.accumulate)
        if self.stages is None:
            assert isinstance(self.settings, Optimisation)
            yield from ([rate] * size for rate in self.settings.rates)
            return
        for stage in self.stages:
            yield from (stage[start : start + size] for start in range(0, len(stage), size))

    def _batches(self, epoch: int) -> list[list[int]]:
        keep, size = self.stages is not None, self.settings.batch_size
        return list(epoch_batches(self.count, size, self.seed, epoch, keep_incomplete=keep))

    def _steps(self) -> Iterator[tuple[int, int, float, list[Batch], bool]]:
        """Number, epoch, rate and batches of every step, and whether it ends the epoch."""
        step, size = 0, self.settings.accumulate
        for epoch, rates in enumerate(self._rates(), start=1):
            samples = self._batches(epoch)
            for index, rate in enumerate(rates):
                if step == self.last_step:
                    return
                step += 1
                group = samples[index * size : (index + 1) * size]
                batches = [Batch(step, i, chosen, epoch) for i, chosen in enumerate(group)]
                yield step, epoch, rate, batches, index + 1 == len(rates)

    def _step(
        self, batches: Sequence[Batch], optimizer: torch.optim.Optimizer
    ) -> dict[str, float | None]:
        optimizer.zero_grad()
        records = []
        for batch in batches:
            loss, parts = self.loss_of(batch)
            (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
            records.append({"loss": loss.item(), "rows": len(batch.samples), **parts})
        self.processes.average_gradients(
            parameter for group in self.groups for parameter in group.parameters
        )
        optimizer.step()
        return mean_record(records) | {"rows": sum(r["rows"] or 0 for r in records)}

    def _warn_once(self, losses: Sequence[float]) -> None:
        if self._warned or len(losses) % CHECK_EVERY:
            return
        warning = loss_warning(losses, self.section)
        if warning:
            self.warn(warning)
            self._warned = True

    def _check_finite(self, loss: float, step: int) -> None:
        """Stop a training whose loss is no number any more: nothing comes of its weights."""
        if not math.isfinite(loss):
            raise CaptError(
                f"the loss is {loss} at step {step}; lower {self.section}.learning_rate"
            )


def log_frame(records: Sequence[Record]) -> pl.DataFrame:
    """The records of all steps as a table; with none, its four required columns."""
    names = list(records[0]) if records else ["step", "epoch", "learning_rate", "loss"]
    schema = {name: pl.Int64() if name in _COUNTS else pl.Float64() for name in names}
    return pl.DataFrame([dict(record) for record in records], schema=schema)


def mean_record(records: Sequence[Record]) -> dict[str, float | None]:
    """Column by column, the mean over the batches of a step."""
    means: dict[str, float | None] = {}
    for name in records[0]:
        values = [value for record in records if (value := record[name]) is not None]
        means[name] = sum(values) / len(values) if values else None
    return means
