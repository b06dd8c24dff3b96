"""The loop that every method trains with: what a step is, and what the loop reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from capt_core.errors import CaptError
from capt_core.learning import loop as loop_module
from capt_core.learning.checkpoint import Checkpoint
from capt_core.learning.loop import Batch, Record, log_frame, mean_record
from capt_core.learning.optimisation import epoch_learning_rates, make_optimizer
from tests.learning.toy import COUNT, optimisation, toy_loop


def gradients(batch: Batch) -> dict[str, torch.Tensor]:
    """Gradients of one forward pass at the start."""
    fresh = toy_loop(optimisation())
    fresh.loss_of(batch)[0].backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in fresh.module.named_parameters() if p.grad is not None}


def test_a_step_goes_down_the_mean_gradient_of_its_batches() -> None:
    seen: list[Batch] = []
    loop = toy_loop(optimisation(accumulate=3), gate_rate=4.0, watch=seen.append)
    start = {name: value.clone() for name, value in loop.module.state_dict().items()}
    trained = loop.fit()
    assert [(batch.step, batch.number, len(batch.samples)) for batch in seen] == [
        (1, number, 2) for number in range(3)
    ]
    every = [gradients(batch) for batch in seen]
    for name, rate in (("weight", 0.1), ("gate", 0.4)):
        expected = start[name] - rate * sum(found[name] for found in every) / 3
        torch.testing.assert_close(loop.module.state_dict()[name], expected)
    assert trained.log.select("step", "epoch", "rows").rows() == [(1, 1, 6)]


def test_the_last_step_of_an_epoch_may_have_fewer_batches() -> None:
    # Seven samples are three batches of two, which are steps of two batches and of one.
    loop = toy_loop(optimisation(accumulate=2, epochs=2))
    trained = loop.fit()
    assert loop.step_count == 4
    assert trained.log.select("step", "epoch", "rows").rows() == [
        (1, 1, 4),
        (2, 1, 2),
        (3, 2, 4),
        (4, 2, 2),
    ]
    assert trained.speed["step"].to_list() == [1, 2, 3, 4]


def test_an_epoch_takes_every_sample_once_in_an_order_of_its_own() -> None:
    seen: list[Batch] = []
    toy_loop(optimisation(batch_size=1, epochs=2), watch=seen.append).fit()
    order = [batch.samples[0] for batch in seen]
    first, second = order[:COUNT], order[COUNT:]
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second


def test_the_log_has_what_the_loop_knows_and_what_the_loss_tells() -> None:
    log = toy_loop(optimisation(accumulate=3)).fit().log
    assert log.schema == {
        "step": pl.Int64,
        "epoch": pl.Int64,
        "learning_rate": pl.Float64,
        "loss": pl.Float64,
        "rows": pl.Int64,
        "seen": pl.Float64,
        "draw": pl.Float64,
        "never": pl.Float64,
    }
    row = log.row(0, named=True)
    # Three batches of two: 2, 4 and 6 rows had been seen.
    assert (row["rows"], row["seen"], row["never"]) == (6, 4.0, None)


def test_the_record_of_a_step_is_the_mean_of_its_batches() -> None:
    records: list[Record] = [{"a": 1.0, "b": None}, {"a": 4.0, "b": None}]
    assert mean_record(records) == {"a": 2.5, "b": None}


def test_a_log_without_steps_has_its_required_columns() -> None:
    assert log_frame([]).columns == ["step", "epoch", "learning_rate", "loss"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_each_group_follows_the_schedule_with_its_own_factor(
    monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    made: list[torch.optim.Optimizer] = []

    def make(*arguments: Any) -> torch.optim.Optimizer:
        made.append(make_optimizer(*arguments))
        return made[0]

    monkeypatch.setattr(loop_module, "make_optimizer", make)
    settings = optimisation(
        optimizer=optimizer, epochs=5, batch_size=3, learning_rate=0.01, warmup_epochs=2
    )
    seen: list[list[float]] = []
    loop = toy_loop(
        settings,
        gate_rate=30.0,
        watch=lambda _: seen.append([group["lr"] for group in made[0].param_groups]),
    )
    log = loop.fit().log
    rates = epoch_learning_rates(0.01, 5, 2, 1e-5)
    expected = [[rate, 30 * rate] for rate in rates for _ in range(2)]
    assert seen == expected
    assert log["learning_rate"].to_list() == [rate for rate, _ in expected]


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    settings = optimisation(epochs=20, learning_rate=1000)
    checkpoint = Checkpoint(tmp_path / "checkpoint.safetensors", 1)
    message = r"the loss is (nan|inf) at step \d+; lower methods\.toy\.learning_rate"
    with pytest.raises(CaptError, match=message):
        toy_loop(settings, checkpoint).fit()


def test_epochs_are_told_when_they_end() -> None:
    # Seven samples make three batches of two: a step of two batches, and one of the last.
    ended: list[tuple[int, int]] = []
    seen: list[tuple[int, int]] = []
    loop = toy_loop(
        optimisation(epochs=2, accumulate=2),
        watch=lambda batch: seen.append((batch.step, batch.epoch)),
        after_epoch=lambda epoch: ended.append((epoch, len(seen))),
    )
    loop.fit()
    assert seen == [(1, 1), (1, 1), (2, 1), (3, 2), (3, 2), (4, 2)]
    assert ended == [(1, 3), (2, 6)]


def test_it_ends_with_the_last_step_asked_for() -> None:
    whole = toy_loop(optimisation(epochs=2)).fit()
    loop = toy_loop(optimisation(epochs=2), last_step=4)
    assert loop.step_count == 4
    assert loop.fit().log.equals(whole.log.head(4))


def test_stages_have_a_rate_for_each_step_and_begin_new_epochs() -> None:
    # Seven samples are four batches of two, the last of one: steps of two batches, two an epoch.
    seen: list[Batch] = []
    ended: list[int] = []
    stages = [[0.4, 0.3, 0.2], [0.1]]
    loop = toy_loop(
        optimisation(accumulate=2, warmup_epochs=5),
        watch=seen.append,
        stages=stages,
        after_epoch=ended.append,
    )
    log = loop.fit().log
    assert loop.step_count == 4
    assert log["learning_rate"].to_list() == [0.4, 0.3, 0.2, 0.1]
    assert log["epoch"].to_list() == [1, 1, 2, 3]
    assert log["rows"].to_list() == [4, 3, 4, 4]
    assert ended == [1, 2, 3]
    first = [sample for batch in seen if batch.epoch == 1 for sample in batch.samples]
    assert sorted(first) == list(range(COUNT))


def test_a_stage_may_be_empty() -> None:
    log = toy_loop(optimisation(), stages=[[], [0.1]]).fit().log
    assert log["epoch"].to_list() == [1]
