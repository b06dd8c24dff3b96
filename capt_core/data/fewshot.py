"""Few-shot lists, drawn exactly as the CoOp line of work draws them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")

MAX_VAL_SHOTS = 4


def draw_fewshot(
    train: Sequence[Item],
    val: Sequence[Item],
    label: Callable[[Item], int],
    shots: int,
    seed: int,
) -> tuple[list[Item], list[Item]]:
    """Draw the few-shot training and validation lists.

    One generator is seeded, then both lists are drawn from it: training first, validation
    (``min(shots, 4)`` images per class) after it. The order of the two lists is the order in
    which the classes first appear; both the order and the order of the inputs matter.

    Args:
        train: training samples in the order of the split file, all classes.
        val: validation samples, likewise.
        label: gives a sample's class id.
        shots: images per class; 0 takes everything.
        seed: of Python's Mersenne Twister.
    """
    generator = random.Random(seed)
    if shots == 0:
        return list(train), list(val)
    return (
        _draw(train, label, shots, generator),
        _draw(val, label, min(shots, MAX_VAL_SHOTS), generator),
    )


def _draw(
    items: Sequence[Item], label: Callable[[Item], int], shots: int, generator: random.Random
) -> list[Item]:
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(label(item), []).append(item)
    drawn: list[Item] = []
    for members in by_label.values():
        # A class with exactly `shots` images is still sampled: it is reordered and the
        # generator advances. A shorter class is taken as it is and leaves the generator alone.
        drawn += generator.sample(members, shots) if len(members) >= shots else members
    return drawn
