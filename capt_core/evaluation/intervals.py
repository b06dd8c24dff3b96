"""How far counts of test images can be trusted: intervals, and tests of paired answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
"""Of the bootstrap: its ends then vary by less than a tenth of the interval's width."""

_NORMAL_95 = 1.959963984540054


def wilson_interval(share: float, images: int) -> tuple[float, float]:
    """95 % interval of a share of right answers (Wilson, 1927).

    Unlike the interval of the normal approximation it stays within 0 and 1 and has a width where
    all answers are right.

    Args:
        share: from 0 to 1; a mean over seeds may be no whole number of images.
        images: at least 1.
    """
    square = _NORMAL_95**2
    centre = (share + square / (2 * images)) / (1 + square / images)
    spread = share * (1 - share) / images + square / (4 * images**2)
    half = _NORMAL_95 * np.sqrt(spread) / (1 + square / images)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def mcnemar(repaired: int, newly_wrong: int) -> float:
    """p value of the exact McNemar test: were repairs and new errors equally likely? (1947)

    Args:
        repaired: images that were wrong before and are right after.
        newly_wrong: images that were right before and are wrong after.

    Returns:
        Two-sided; 1 where nothing changed.
    """
    from scipy.stats import binomtest

    changed = repaired + newly_wrong
    return float(binomtest(repaired, changed).pvalue) if changed else 1.0


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two accuracies on the same images, as shares.

    Attributes:
        value: mean over seeds.
        low: lower end of the 95 % interval.
        high: upper end.
        p_value: that there is no difference, paired over images and seeds.
    """

    value: float
    low: float
    high: float
    p_value: float


def paired_difference(changes: npt.ArrayLike, seeds: int) -> PairedDifference:
    """Mean change of the answers to the same images, with its interval and its test.

    Images are the independent units, not answers: the seeds' answers to an image belong together.
    The interval is that of the percentile bootstrap over images (Efron, 1979) with a fixed seed.
    Drawn are counts of the few values that a change can have, which is the same and takes no time.
    The test is the exact two-sided sign-flip test (Fisher, 1935): were the models alike, the change
    of an image were as likely to have the other sign. For one seed it is McNemar's test.

    Args:
        changes: of each image, summed over seeds: +1 for each seed that repaired it, -1 for each
            that broke it, [N] of whole numbers, N at least 1.
        seeds: how many; a change lies from -seeds to seeds.
    """
    values, counts = np.unique(np.asarray(changes, dtype=np.int64), return_counts=True)
    images = int(counts.sum())
    draws = np.random.default_rng(0).multinomial(images, counts / images, size=RESAMPLES)
    low, high = np.quantile(draws @ values / (images * seeds), [0.025, 0.975])
    mean = float(counts @ values) / (images * seeds)
    return PairedDifference(mean, float(low), float(high), _sign_flip(values, counts))


def _sign_flip(values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> float:
    """p value of the sum of changes, where each keeps or changes its sign with equal chance."""
    from scipy.signal import fftconvolve
    from scipy.stats import binom

    observed = abs(int(values @ counts))
    # Of n changes of size k, B keep a positive sign: they add k (2 B - n), B binomial. The
    # distribution below is of the sum of k B over all sizes.
    chances = np.ones(1)
    total = 0
    for size in np.unique(np.abs(values[values != 0])):
        number = int(counts[np.abs(values) == size].sum())
        steps = np.zeros(size * number + 1)
        steps[::size] = binom.pmf(np.arange(number + 1), number, 0.5)
        chances = fftconvolve(chances, steps) if total else steps
        total += size * number
    sums = np.abs(2 * np.arange(total + 1) - total)
    return float(np.clip(chances[sums >= observed].sum(), 0, 1))
