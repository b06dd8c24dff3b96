"""Early warnings that nothing is being learnt."""

from __future__ import annotations

from pathlib import Path

import pytest

from capt_core.params import Losses, Train
from capt_core.training.schedule import epoch_learning_rates
from capt_core.training.watch import loss_warning, schedule_warning
from tests.training.toy import toy_trainer


def warned(settings: Train) -> str | None:
    rates = epoch_learning_rates(
        settings.learning_rate,
        settings.epochs,
        settings.warmup_epochs,
        settings.warmup_learning_rate,
    )
    return schedule_warning(settings, rates)


def test_a_warm_up_that_never_ends_is_told() -> None:
    for epochs in (1, 2, 3):
        line = warned(Train(epochs=epochs, warmup_epochs=3))
        assert line is not None
        assert "never rises above 1e-05" in line
        assert f"train.warmup_epochs=3 covers all of train.epochs={epochs}" in line
        assert "\n" not in line
    assert warned(Train(epochs=4, warmup_epochs=3)) is None
    assert warned(Train(epochs=1, warmup_epochs=0)) is None


def test_fewer_steps_than_forty_say_nothing() -> None:
    assert loss_warning([]) is None
    assert loss_warning([1.0] * 39) is None
    assert loss_warning([1.0] * 40) is not None


def test_the_quarters_by_hand() -> None:
    # First quarter 2.0; the last 2.002 is 0.1 per cent away, 2.003 is more.
    def losses(last: float) -> list[float]:
        return [2.0] * 10 + [9.0] * 20 + [last] * 10

    line = loss_warning(losses(2.0015))
    assert line is not None
    assert "2.0000 -> 2.0015 in 40 steps" in line
    assert "train.learning_rate" in line
    assert loss_warning(losses(2.003)) is None
    assert loss_warning(losses(1.997)) is None
    assert loss_warning(losses(1.9985)) is not None


def test_a_loss_of_nothing_stands_still() -> None:
    assert loss_warning([0.0] * 40) is not None


@pytest.mark.parametrize(
    "losses", [[1.0 - 0.01 * step for step in range(60)], [0.5**i for i in range(50)]]
)
def test_a_falling_loss_is_no_reason_to_warn(losses: list[float]) -> None:
    for steps in range(len(losses)):
        assert loss_warning(losses[:steps]) is None


STEADY = Train(
    epochs=45,
    batch_size=6,
    learning_rate=1e-12,
    warmup_epochs=2,
    warmup_learning_rate=1e-13,
    augmentation="none",
)


def lines(folder: Path, settings: Train, losses: Losses) -> list[str]:
    trainer = toy_trainer(folder, settings, losses=losses, cached=True, blocks=0)
    told: list[str] = []
    trainer.warn = told.append
    trainer.fit()
    return told


def test_training_that_stands_still_is_told_once(tmp_path: Path) -> None:
    told = lines(tmp_path, STEADY, Losses(original_weight=1.0, confusion_weight=0.0))
    assert len(told) == 1
    assert "the loss does not move" in told[0]
    assert "in 40 steps" in told[0]


def test_a_short_training_in_its_warm_up_is_told_before_it_starts(tmp_path: Path) -> None:
    settings = STEADY.model_copy(update={"epochs": 2, "warmup_epochs": 2})
    told = lines(tmp_path, settings, Losses())
    assert len(told) == 1
    assert "warmup_epochs=2 covers all" in told[0]


def test_training_that_learns_is_left_alone(tmp_path: Path) -> None:
    settings = STEADY.model_copy(update={"learning_rate": 0.05, "optimizer": "adamw"})
    assert lines(tmp_path, settings, Losses(original_weight=1.0)) == []
