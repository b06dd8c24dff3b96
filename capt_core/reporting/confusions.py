"""What was taken for what on the test images, before and after, counted for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from capt_core.reporting.inputs import DatasetReport

GROUPS = ("base", "novel")


@dataclass(frozen=True)
class HalfConfusion:
    """Test confusions among the classes of one half; only these compete with each other.

    Attributes:
        group: `base` or `novel`.
        class_ids: of the half, ascending; the order of all axes below.
        names: of the classes.
        images: test images per class, [C].
        before: images of class (row) that the base model took for class (column), mean over
            seeds, [C, C].
        after: the same for the adapted model; None without such a run.
    """

    group: str
    class_ids: list[int]
    names: list[str]
    images: NDArray[np.float64]
    before: NDArray[np.float64]
    after: NDArray[np.float64] | None

    def rates(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Counts as percent of the row's test images, [C, C]; the diagonal is NaN."""
        rates = 100 * counts / np.maximum(self.images, 1)[:, None]
        np.fill_diagonal(rates, np.nan)
        return rates

    def restricted(self, positions: Sequence[int]) -> HalfConfusion:
        """The same for some of the classes, given by their positions on the axes."""
        index = np.ix_(positions, positions)
        return HalfConfusion(
            self.group,
            [self.class_ids[i] for i in positions],
            [self.names[i] for i in positions],
            self.images[list(positions)],
            self.before[index],
            None if self.after is None else self.after[index],
        )


@dataclass(frozen=True)
class ConfusedPair:
    """One direction of confusion: images of the true class that were taken for the other.

    Counts are test images, means over seeds; `after` is None without an adapted run.
    """

    group: str
    true_id: int
    true_name: str
    taken_id: int
    taken_name: str
    images: int
    before: float
    after: float | None

    @property
    def rate_before(self) -> float:
        """Percent of the true class's test images."""
        return 100 * self.before / self.images

    @property
    def rate_after(self) -> float | None:
        """Percent of the true class's test images."""
        return None if self.after is None else 100 * self.after / self.images


@dataclass(frozen=True)
class Change:
    """How the adapted model's answers differ from the base model's, in test images.

    All but `images` are means over seeds.
    """

    group: str
    images: int
    wrong_before: float
    corrected: float
    broken: float

    @property
    def wrong_after(self) -> float:
        return self.wrong_before - self.corrected + self.broken


def half_confusion(report: DatasetReport, group: str) -> HalfConfusion:
    """Count the test confusions of one half."""
    classes = report.classes.filter(pl.col("group") == group).sort("class_id")
    class_ids = classes["class_id"].to_list()
    before = np.mean([_counts(entry.base_predictions, class_ids) for entry in report.seeds], axis=0)
    after = [_counts(run.predictions, class_ids) for run in report.shown_runs]
    return HalfConfusion(
        group,
        class_ids,
        classes["class_name"].to_list(),
        before.sum(axis=1),
        before,
        np.mean(after, axis=0) if after else None,
    )


def confused_pairs(half: HalfConfusion, count: int) -> list[ConfusedPair]:
    """The pairs that the base model confuses most often, most frequent first.

    Ties go to the higher share of the true class, then to the lower class ids. Pairs that never
    occur are left out, so there may be fewer than `count`.
    """
    pairs = []
    for row, column in _ranked_cells(half)[:count]:
        pairs.append(
            ConfusedPair(
                half.group,
                half.class_ids[row],
                half.names[row],
                half.class_ids[column],
                half.names[column],
                int(half.images[row]),
                float(half.before[row, column]),
                None if half.after is None else float(half.after[row, column]),
            )
        )
    return pairs


def most_confused_classes(half: HalfConfusion, limit: int) -> list[int]:
    """Positions, ascending, of at most `limit` classes that hold the most frequent pairs.

    Classes enter pair by pair, so that a shown class comes with what it is confused with.
    """
    if len(half.names) <= limit:
        return list(range(len(half.names)))
    chosen: set[int] = set()
    for cell in _ranked_cells(half):
        if len(chosen | set(cell)) <= limit:
            chosen.update(cell)
    return sorted(chosen)


def change(report: DatasetReport, group: str) -> Change | None:
    """What the adapted model corrected and broke among a half's test images; None without it."""
    runs = report.shown_runs
    if not runs:
        return None
    images = wrong = corrected = broken = 0
    for run in runs:
        before = _test_images(report.base_predictions_of(run.seed)).filter(pl.col("group") == group)
        if before.is_empty():
            return None
        images = before.height
        wrong += before.filter(~pl.col("correct")).height
        after = run.predictions.select("sample_id", pl.col("correct").alias("now"))
        both = before.join(after, on="sample_id")
        corrected += both.filter(~pl.col("correct") & pl.col("now")).height
        broken += both.filter(pl.col("correct") & ~pl.col("now")).height
    return Change(group, images, wrong / len(runs), corrected / len(runs), broken / len(runs))


def _ranked_cells(half: HalfConfusion) -> list[tuple[int, int]]:
    rates = half.rates(half.before)
    cells = [
        (row, column) for row, column in np.argwhere(half.before > 0).tolist() if row != column
    ]
    return sorted(cells, key=lambda cell: (-half.before[cell], -rates[cell], cell))


def _counts(predictions: pl.DataFrame, class_ids: Sequence[int]) -> NDArray[np.float64]:
    position = {class_id: index for index, class_id in enumerate(class_ids)}
    counts = np.zeros((len(class_ids), len(class_ids)))
    cells = (
        _test_images(predictions)
        .filter(pl.col("true_class_id").is_in(list(class_ids)))
        .group_by("true_class_id", "pseudo_label_id")
        .len()
    )
    for true_class, predicted, count in cells.iter_rows():
        counts[position[true_class], position[predicted]] = count
    return counts


def _test_images(predictions: pl.DataFrame) -> pl.DataFrame:
    return predictions.filter(pl.col("split") == "test")
