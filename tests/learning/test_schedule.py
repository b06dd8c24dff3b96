"""Learning rates of the CoOp line, by known numbers."""

from __future__ import annotations

import pytest

from capt_core.learning.optimisation import epoch_learning_rates


def test_five_epochs_after_one_of_warm_up() -> None:
    rates = epoch_learning_rates(0.0035, 5, 1, 1e-5)
    assert rates == pytest.approx([1e-5, 0.0035, 0.003166, 0.002291, 0.001209], abs=1e-6)


def test_the_last_rate_stays_above_zero() -> None:
    assert epoch_learning_rates(0.002, 20, 1, 1e-5)[-1] == pytest.approx(4.894e-5, abs=1e-8)
    rates = epoch_learning_rates(0.005, 20, 1, 1e-5)
    assert rates[1:4] == pytest.approx([0.005, 0.004969, 0.004878], abs=1e-6)
    assert rates[-1] == pytest.approx(1.224e-4, abs=1e-7)


def test_without_warm_up_the_cosine_starts_at_once() -> None:
    assert epoch_learning_rates(1.0, 2, 0, 1e-5) == pytest.approx([1.0, 0.5])
