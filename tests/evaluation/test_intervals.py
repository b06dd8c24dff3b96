"""Intervals and paired tests against the formulas' published form and scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from capt_core.evaluation.intervals import mcnemar, paired_difference, wilson_interval


@pytest.mark.parametrize(("right", "images"), [(0, 7), (7, 7), (3, 40), (812, 1000)])
def test_wilson_interval_is_that_of_scipy(right: int, images: int) -> None:
    wanted = binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right / images, images) == pytest.approx((wanted.low, wanted.high))


def test_mcnemar_by_hand() -> None:
    # Of five changes all are repairs: 2 / 2^5.
    assert mcnemar(5, 0) == pytest.approx(1 / 16)
    assert mcnemar(0, 0) == 1
    assert mcnemar(3, 3) == pytest.approx(1)
    assert mcnemar(9, 2) == mcnemar(2, 9)


def test_the_test_of_one_seed_is_that_of_mcnemar() -> None:
    changes = [1] * 9 + [-1] * 2 + [0] * 30
    assert paired_difference(changes, 1).p_value == pytest.approx(mcnemar(9, 2))
    assert paired_difference(changes, 1).value == pytest.approx(7 / 41)


def test_the_test_of_several_seeds_counts_every_choice_of_signs() -> None:
    changes = [3, 2, 2, -1, 1, 0, 3]
    sizes = [abs(change) for change in changes if change]
    sums = [
        sum(sign * size for sign, size in zip(signs, sizes, strict=True))
        for signs in itertools.product((1, -1), repeat=len(sizes))
    ]
    wanted = np.mean([abs(total) >= sum(changes) for total in sums])
    assert paired_difference(changes, 3).p_value == pytest.approx(wanted)


def test_the_interval_is_the_percentile_bootstrap() -> None:
    generator = np.random.default_rng(3)
    changes = generator.choice([-3, -1, 0, 0, 0, 1, 2, 3], size=400)
    found = paired_difference(changes, 3)
    wanted = bootstrap(
        (changes / 3,), np.mean, method="percentile", n_resamples=20_000, rng=generator
    ).confidence_interval
    assert found.value == pytest.approx(changes.mean() / 3)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.005)
    assert found == paired_difference(changes[::-1], 3)


def test_models_that_agree_do_not_differ() -> None:
    found = paired_difference(np.zeros(5), 2)
    assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)
