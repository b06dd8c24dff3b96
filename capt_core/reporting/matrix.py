"""Confusion matrices of the page: what was taken for what, before and after, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import polars as pl

from capt_core.reporting.findings import Findings

LARGEST = 60
"""Classes up to which a matrix shows all of them."""

RESTRICTED = 40
"""Classes of the matrix where there are more."""

Place = tuple[int, int]
"""Ids of the true class and of the class that its images were taken for."""


@dataclass(frozen=True)
class Cell:
    """Images of one class taken for another, means over seeds.

    Attributes:
        true_id: class that the images show.
        taken_id: class that they were taken for.
        before: by the base model.
        after: by the repaired model; None without one.
        shade_before: how dark the cell is, from 0 to 1.
        shade_after: likewise.
        shade_change: how strong its change is, from 0 to 1.
    """

    true_id: int
    taken_id: int
    before: float
    after: float | None
    shade_before: float
    shade_after: float
    shade_change: float


@dataclass(frozen=True)
class Line:
    """A row of the matrix: a class, its cells by the id of the class taken for, and its errors."""

    class_id: int
    name: str
    images: int
    cells: Mapping[int, Cell]
    before: float
    after: float | None


@dataclass(frozen=True)
class Matrix:
    """The confusions among the classes of one half.

    Attributes:
        group: of the classes.
        lines: one per shown class, in the order of the columns.
        class_count: classes of the half, shown or not.
        before: errors of the base model in the half, mean over seeds.
        after: errors of the repaired model; None without one.
        shown_before: those of `before` between shown classes.
        shown_after: those of `after`.
    """

    group: str
    lines: Sequence[Line]
    class_count: int
    before: float
    after: float | None
    shown_before: float
    shown_after: float | None

    @property
    def restricted(self) -> bool:
        """Whether some classes are left out."""
        return len(self.lines) < self.class_count


def matrices(findings: Findings) -> list[Matrix]:
    """One matrix per half of the classes; one of all of them in the protocol `all_classes`."""
    groups = findings.classes["group"].unique(maintain_order=True).to_list()
    counted = confusion_counts(findings.errors, max(1, findings.summary["seed"].n_unique()))
    images = dict(findings.class_results.select("class_id", "images").iter_rows())
    if findings.protocol == "all_classes" or len(groups) < 2:
        names = dict(findings.classes.select("class_id", "class_name").iter_rows())
        return [_matrix("all", names, counted, images, findings.repaired_label is not None)]
    found = []
    for group in groups:
        half = findings.classes.filter(pl.col("group") == group)
        names = dict(half.select("class_id", "class_name").iter_rows())
        found.append(_matrix(group, names, counted, images, findings.repaired_label is not None))
    return found


def confusion_counts(errors: pl.DataFrame, seeds: int) -> dict[Place, tuple[float, float]]:
    """Images per true class and class taken for: by the base model, by the repaired model.

    Args:
        errors: table `test_errors`.
        seeds: number of seeds, over which means are taken.
    """
    counts: dict[Place, list[int]] = {}
    for index, column in enumerate(("base_prediction_id", "prediction_id")):
        wrong = errors.filter(pl.col(column) != pl.col("true_class_id"))
        for true_id, taken_id, count in wrong.group_by("true_class_id", column).len().iter_rows():
            counts.setdefault((true_id, taken_id), [0, 0])[index] = count
    return {place: (before / seeds, after / seeds) for place, (before, after) in counts.items()}


def most_confused(
    counts: Mapping[Place, tuple[float, float]], ids: Sequence[int], limit: int
) -> list[int]:
    """At most `limit` of the class ids, ascending: those of the most frequent pairs.

    Classes enter pair by pair, so that a shown class comes with what it is confused with.
    """
    if len(ids) <= limit:
        return sorted(ids)
    chosen: set[int] = set()
    for place in sorted(counts, key=lambda place: (-max(counts[place]), place)):
        if len(chosen | set(place)) <= limit:
            chosen.update(place)
    return sorted(chosen)


def _matrix(
    group: str,
    names: Mapping[int, str],
    counted: Mapping[Place, tuple[float, float]],
    images: Mapping[int, int],
    repaired: bool,
) -> Matrix:
    counts = {place: both for place, both in counted.items() if place[0] in names}
    shown = sorted(names) if len(names) <= LARGEST else most_confused(counts, [*names], RESTRICTED)
    inside = {place: both for place, both in counts.items() if {*place} <= {*shown}}
    rates = {
        place: tuple(count / max(1, images.get(place[0], 0)) for count in both)
        for place, both in inside.items()
    }
    darkest = max((max(both) for both in rates.values()), default=0) or 1.0
    strongest = max((abs(b - a) for b, a in rates.values()), default=0) or 1.0
    rows: dict[int, dict[int, Cell]] = {class_id: {} for class_id in shown}
    for (true_id, taken_id), (before, after) in sorted(inside.items()):
        rate_before, rate_after = rates[true_id, taken_id]
        rows[true_id][taken_id] = Cell(
            true_id,
            taken_id,
            before,
            after if repaired else None,
            # The root keeps rare confusions visible beside a frequent one.
            sqrt(rate_before / darkest),
            sqrt(rate_after / darkest),
            sqrt(abs(rate_after - rate_before) / strongest),
        )

    def total(places: Mapping[Place, tuple[float, float]], index: int) -> float:
        return sum(both[index] for both in places.values())

    def line(class_id: int) -> Line:
        own = {place: both for place, both in counts.items() if place[0] == class_id}
        return Line(
            class_id,
            names[class_id],
            images.get(class_id, 0),
            rows[class_id],
            total(own, 0),
            total(own, 1) if repaired else None,
        )

    return Matrix(
        group,
        [line(class_id) for class_id in shown],
        len(names),
        total(counts, 0),
        total(counts, 1) if repaired else None,
        total(inside, 0),
        total(inside, 1) if repaired else None,
    )
