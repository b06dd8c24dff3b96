"""Early warnings that nothing is being learnt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from capt_core.learning import loop as loop_module
from capt_core.learning.checkpoint import Checkpoint
from capt_core.learning.loop import Loop
from capt_core.learning.optimisation import epoch_learning_rates
from capt_core.learning.watch import CHECK_EVERY, loss_warning, schedule_warning
from tests.learning.toy import SECTION, interrupt, optimisation, toy_loop


def warned(**settings: int) -> str | None:
    chosen = optimisation(**settings)
    rates = epoch_learning_rates(
        chosen.learning_rate,
        chosen.epochs,
        chosen.warmup_epochs,
        chosen.warmup_learning_rate,
    )
    return schedule_warning(chosen, rates, SECTION)


def warning_of(losses: Sequence[float]) -> str | None:
    return loss_warning(losses, SECTION)


def test_a_warm_up_that_never_ends_is_told() -> None:
    for epochs in (1, 2, 3):
        line = warned(epochs=epochs, warmup_epochs=3)
        assert line is not None
        assert "never rises above 1e-05" in line
        assert f"{SECTION}.warmup_epochs=3 covers all of {SECTION}.epochs={epochs}" in line
        assert "\n" not in line
    assert warned(epochs=4, warmup_epochs=3) is None
    assert warned(epochs=1, warmup_epochs=0) is None


def test_fewer_steps_than_forty_say_nothing() -> None:
    assert warning_of([]) is None
    assert warning_of([1.0] * 39) is None
    assert warning_of([1.0] * 40) is not None
    assert warning_of([0.0] * 40) is not None


def test_the_quarters_by_hand() -> None:
    # First quarter 2.0; the last 2.002 is 0.1 per cent away, 2.003 is more.
    def losses(last: float) -> list[float]:
        return [2.0] * 10 + [9.0] * 20 + [last] * 10

    line = warning_of(losses(2.0015))
    assert line is not None
    assert "2.0000 -> 2.0015 in 40 steps" in line
    assert f"{SECTION}.learning_rate" in line
    assert warning_of(losses(2.003)) is None
    assert warning_of(losses(1.997)) is None
    assert warning_of(losses(1.9985)) is not None


def noisy(slope: float, count: int = 400) -> list[float]:
    """Losses that fall by `slope` a step, with the noise of batches that differ."""
    draws = torch.randn(count, generator=torch.Generator().manual_seed(3)).tolist()
    return [2.0 - slope * step + 0.3 * draw for step, draw in enumerate(draws)]


def first_warning(losses: list[float]) -> int | None:
    looks = range(CHECK_EVERY, len(losses) + 1, CHECK_EVERY)
    return next((steps for steps in looks if warning_of(losses[:steps])), None)


def test_noise_that_goes_nowhere_is_told_early() -> None:
    assert first_warning(noisy(0.0)) in range(80, 241)
    assert first_warning(noisy(0.004)) is None


def test_the_noise_of_the_quarters_by_hand() -> None:
    # Quarters of 20 values, half of them 0.19 above, half below: their squares sum to 40 * 0.0361,
    # the standard error is sqrt(1.444 / (20 * 19)) = 0.06164, and half of it 0.03082.
    def losses(last: float) -> list[float]:
        swing = [0.19, -0.19] * 10
        return [2.0 + x for x in swing] + [9.0] * 40 + [last + x for x in swing]

    assert warning_of(losses(2.0305)) is not None
    assert warning_of(losses(2.0312)) is None
    assert warning_of(losses(1.9695)) is not None
    # With fewer steps the noise itself is not known well enough to judge by.
    few = losses(2.0305)
    assert warning_of(few[:19] + few[-60:]) is None


@pytest.mark.parametrize(
    "losses", [[1.0 - 0.01 * step for step in range(60)], [0.5**i for i in range(50)]]
)
def test_a_falling_loss_is_no_reason_to_warn(losses: list[float]) -> None:
    for steps in range(len(losses)):
        assert warning_of(losses[:steps]) is None


STEADY: dict[str, Any] = {
    "epochs": 45,
    "batch_size": 7,
    "learning_rate": 1e-12,
    "warmup_epochs": 2,
    "warmup_learning_rate": 1e-13,
}


def warnings_of(loop: Loop) -> list[str]:
    warnings: list[str] = []
    loop.warn = warnings.append
    loop.fit()
    return warnings


def test_training_that_stands_still_is_told_once() -> None:
    (warning,) = warnings_of(toy_loop(optimisation(**STEADY), noise=0.0))
    assert "the loss does not move" in warning
    assert "in 40 steps" in warning


def test_a_short_training_in_its_warm_up_is_told_before_it_starts() -> None:
    (warning,) = warnings_of(toy_loop(optimisation(**{**STEADY, "epochs": 2})))
    assert "warmup_epochs=2 covers all" in warning


LEARNING = {**STEADY, "learning_rate": 0.05, "optimizer": "adamw"}


def test_what_a_resumed_training_has_learnt_before_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = optimisation(**{**LEARNING, "epochs": 160})
    kept = Checkpoint(tmp_path / "checkpoint.safetensors", 60)
    interrupt(toy_loop(settings, kept), 61)
    seen: list[int] = []

    def look(losses: Sequence[float], section: str) -> str | None:
        seen.append(len(losses))
        return loss_warning(losses, section)

    monkeypatch.setattr(loop_module, "loss_warning", look)
    warnings = warnings_of(toy_loop(settings, kept))
    # Two epochs of warm-up; the 58 losses from before the interruption are looked at as well.
    assert seen == [80, 120]
    # Training that learns is left alone, resumed or not.
    assert warnings == warnings_of(toy_loop(optimisation(**LEARNING))) == []
