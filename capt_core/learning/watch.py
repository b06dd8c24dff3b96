"""Early warning that nothing is being learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence

from capt_core.learning.optimisation import Optimisation

CHECK_EVERY = 40
STILL = 1e-3
NOISE_AFTER = 80  # losses from which on their noise can be estimated
NOISE_SHARE = 0.5  # of the standard error; a loss that falls leaves it behind, ever further


def schedule_warning(settings: Optimisation, rates: Sequence[float], section: str) -> str | None:
    """A line if the learning rate never leaves its warm-up value, known before training.

    Args:
        settings: of the schedule.
        rates: learning rate of every epoch.
        section: path of the settings in params.yaml.
    """
    if max(rates) > settings.warmup_learning_rate:
        return None
    if settings.warmup_epochs < settings.epochs:
        return (
            f"{section}.learning_rate={settings.learning_rate:g} is no higher than "
            f"{section}.warmup_learning_rate={settings.warmup_learning_rate:g}; raise it"
        )
    return (
        f"the learning rate never rises above {max(rates):g}: {section}.warmup_epochs="
        f"{settings.warmup_epochs} covers all of {section}.epochs={settings.epochs}; train longer"
    )


def loss_warning(losses: Sequence[float], section: str) -> str | None:
    """A line if the loss stands still: the means of the first and last quarter hardly differ.

    Batches differ, and with them their losses, so that these means are never quite equal: what is
    well below the standard error of their difference counts as none too.

    Args:
        losses: of every step at the full learning rate so far.
        section: path of the training's settings in params.yaml.

    Returns:
        None as long as there are fewer than 40 steps, or the loss moves.
    """
    if len(losses) < CHECK_EVERY:
        return None
    quarter = len(losses) // 4
    start, end = losses[:quarter], losses[-quarter:]
    first, last = sum(start) / quarter, sum(end) / quarter
    still = STILL * max(abs(first), 1e-12)
    if len(losses) >= NOISE_AFTER:
        squares = sum((x - first) ** 2 for x in start) + sum((x - last) ** 2 for x in end)
        still = max(still, NOISE_SHARE * math.sqrt(squares / (quarter * (quarter - 1))))
    if abs(last - first) > still:
        return None
    return (
        f"the loss does not move ({first:.4f} -> {last:.4f} in {len(losses)} steps); "
        f"raise {section}.learning_rate or check the data"
    )
