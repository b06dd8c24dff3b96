"""Early warning that nothing is being learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence

from capt_core.params import Train

LOOK_AFTER = 40
STILL = 1e-3
NOISE_AFTER = 80  # losses from which on their own noise can be told
NOISE_SHARE = 0.5  # of the standard error; a loss that falls leaves it behind, ever further


def schedule_warning(settings: Train, rates: Sequence[float]) -> str | None:
    """A line if the learning rate never leaves its warm-up value, known before training."""
    if max(rates) > settings.warmup_learning_rate:
        return None
    if settings.warmup_epochs < settings.epochs:
        return (
            f"train.learning_rate={settings.learning_rate:g} is no higher than "
            f"train.warmup_learning_rate={settings.warmup_learning_rate:g}; raise it"
        )
    return (
        f"the learning rate never rises above {max(rates):g}: train.warmup_epochs="
        f"{settings.warmup_epochs} covers all of train.epochs={settings.epochs}; train longer"
    )


def loss_warning(losses: Sequence[float]) -> str | None:
    """A line if the loss stands still: the means of the first and last quarter hardly differ.

    Batches differ, and with them their losses, so that these means are never quite equal: what is
    well below the standard error of their difference counts as none too.

    Args:
        losses: of every step at the full learning rate so far.

    Returns:
        None as long as there are fewer than 40 steps, or the loss moves.
    """
    if len(losses) < LOOK_AFTER:
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
        "raise train.learning_rate or check the data"
    )
