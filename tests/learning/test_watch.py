"""Early warnings that nothing is being learnt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from capt_core.params import Losses, Train
from capt_core.training import engine
from capt_core.learning.checkpoint import Checkpoint
from capt_core.methods.capt.training import make_optimizer
from capt_core.learning.schedule import epoch_learning_rates
from capt_core.learning.watch import CHECK_EVERY, loss_warning, schedule_warning
from tests.methods.capt.toy import toy_trainer


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


def noisy(slope: float, count: int = 400) -> list[float]:
    """Losses that fall by `slope` a step, with the noise of batches that differ."""
    draws = torch.randn(count, generator=torch.Generator().manual_seed(3)).tolist()
    return [2.0 - slope * step + 0.3 * draw for step, draw in enumerate(draws)]


def first_warning(losses: list[float]) -> int | None:
    looks = range(CHECK_EVERY, len(losses) + 1, CHECK_EVERY)
    return next((steps for steps in looks if loss_warning(losses[:steps])), None)


def test_noise_that_goes_nowhere_is_told_early() -> None:
    assert first_warning(noisy(0.0)) in range(80, 241)
    assert first_warning(noisy(0.004)) is None


def test_the_noise_of_the_quarters_by_hand() -> None:
    # Quarters of 20 values, half of them 0.19 above, half below: their squares sum to 40 * 0.0361,
    # the standard error is sqrt(1.444 / (20 * 19)) = 0.06164, and half of it 0.03082.
    def losses(last: float) -> list[float]:
        swing = [0.19, -0.19] * 10
        return [2.0 + x for x in swing] + [9.0] * 40 + [last + x for x in swing]

    assert loss_warning(losses(2.0305)) is not None
    assert loss_warning(losses(2.0312)) is None
    assert loss_warning(losses(1.9695)) is not None
    # With fewer steps the noise itself is not known well enough to judge by.
    few = losses(2.0305)
    assert loss_warning(few[:19] + few[-60:]) is None


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


def test_what_a_resumed_training_has_learnt_before_counts(tmp_path: Path) -> None:
    settings = STEADY.model_copy(update={"epochs": 160, "learning_rate": 0.05})
    settings = settings.model_copy(update={"optimizer": "adamw"})
    losses = Losses(original_weight=1.0)
    kept = Checkpoint(tmp_path / "checkpoint.safetensors", 60)
    whole = toy_trainer(tmp_path, settings, losses=losses, cached=True, checkpoint=kept, blocks=0)
    whole.fit()
    kept.save(whole.model, make_optimizer(whole.model, settings), 60, whole._log[:60])
    resumed = toy_trainer(tmp_path, settings, losses=losses, cached=True, checkpoint=kept, blocks=0)
    told: list[str] = []
    resumed.warn = told.append
    seen: list[int] = []

    def look(losses: Sequence[float]) -> str | None:
        seen.append(len(losses))
        return loss_warning(losses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "loss_warning", look)
        resumed.fit()
    # Two epochs of warm-up; the 58 losses from before the interruption are looked at as well.
    assert seen == [80, 120]
    assert told == []


def test_training_that_learns_is_left_alone(tmp_path: Path) -> None:
    settings = STEADY.model_copy(update={"learning_rate": 0.05, "optimizer": "adamw"})
    assert lines(tmp_path, settings, Losses(original_weight=1.0)) == []
