"""The classes of a data set as a table for people: how each is spoken, and its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from capt_core.data.splits import SPLITS, SplitData, prompt_name
from capt_core.errors import cut

_WIDEST = 48


@dataclass(frozen=True)
class ClassCount:
    """A class: its name in prompts, its group and its number of images by split."""

    class_id: int
    spoken: str
    group: str
    train: int
    val: int
    test: int


def class_counts(split: SplitData, groups: Sequence[str]) -> list[ClassCount]:
    """Every class of a data set as listed, in class order; `groups` as from `class_groups`."""
    sizes = split.samples.group_by("class_id", "split").agg(pl.len())
    counts = {(class_id, part): count for class_id, part, count in sizes.iter_rows()}
    return [
        ClassCount(
            class_id,
            prompt_name(name),
            groups[class_id],
            **{part: counts.get((class_id, part), 0) for part in SPLITS},
        )
        for class_id, name in enumerate(split.class_names)
    ]


def class_lines(classes: Sequence[ClassCount]) -> Iterator[str]:
    """The classes one a line, aligned; names longer than 48 characters are cut.

    Groups are named where there are two.
    """
    if not classes:
        return
    halves = len({entry.group for entry in classes}) > 1
    names = [cut(entry.spoken, _WIDEST) for entry in classes]
    width = max(len("class"), *map(len, names))
    header = "  ".join(f"{part:>6}" for part in SPLITS)
    yield f"{'id':>5}  {'class':<{width}}  {header}{'  group' * halves}"
    for name, entry in zip(names, classes, strict=True):
        sizes = "  ".join(f"{count:>6}" for count in (entry.train, entry.val, entry.test))
        yield f"{entry.class_id:>5}  {name:<{width}}  {sizes}{f'  {entry.group}' * halves}"
