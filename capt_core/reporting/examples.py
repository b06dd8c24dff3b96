"""Example images of a confused pair: the sample, what it was taken for, the representative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from capt_core.reporting.confusions import ConfusedPair
from capt_core.reporting.inputs import DatasetReport

EXAMPLES = 3
_FROM_BANK = 2  # leaves room for a test image, which training has not seen


@dataclass(frozen=True)
class Picture:
    """An image of the data set and what to say about it.

    Attributes:
        path: relative to the image root.
        class_name: what it shows.
        caption: what it is shown for.
    """

    path: str
    class_name: str
    caption: str


@dataclass(frozen=True)
class Example:
    """One mistake of the base model.

    Attributes:
        sample: the mistaken image.
        taken_for: an image of the class it was taken for; None if the data set has none.
        representative: its representative confusing sample; None for test images, which are
            in no bank.
        confidence: of the wrong class, percent.
        true_confidence: of the true class, percent.
        right: in how many adapted runs the image is classified right.
        runs: how many adapted runs classified the image.
    """

    sample: Picture
    taken_for: Picture | None
    representative: Picture | None
    confidence: float
    true_confidence: float
    right: int
    runs: int

    @property
    def pictures(self) -> list[tuple[str, Picture]]:
        """Its pictures in reading order, each with the role in which it is shown."""
        roles = {
            "This": self.sample,
            "taken for": self.taken_for,
            "representative": self.representative,
        }
        return [(role, picture) for role, picture in roles.items() if picture is not None]


def pair_examples(report: DatasetReport, pair: ConfusedPair) -> list[Example]:
    """Up to three mistakes of a pair, the surest ones first.

    Bank samples with a representative come first (at most two where test images can fill up),
    then test images, as the base model of the first draw took them.
    """
    test = (
        report.seeds[0]
        .base_predictions.filter(
            pl.col("split") == "test",
            pl.col("true_class_id") == pair.true_id,
            pl.col("pseudo_label_id") == pair.taken_id,
        )
        .sort("confidence", "sample_id", descending=[True, False])
    )
    bank = _bank_samples(report, pair)
    kept = min(len(bank), max(_FROM_BANK, EXAMPLES - test.height))
    samples = [*bank[:kept], *((row, None) for row in test.iter_rows(named=True))][:EXAMPLES]
    typical = _typical_images(report, pair)
    examples = []
    for index, (row, representative) in enumerate(samples):
        right, runs = _after(report, row["sample_id"])
        caption = "test image" if representative is None else "training image"
        examples.append(
            Example(
                Picture(row["path"], pair.true_name, caption),
                typical[index % len(typical)] if typical else None,
                representative,
                100 * row["confidence"],
                100 * row["true_confidence"],
                right,
                runs,
            )
        )
    return examples


def _bank_samples(
    report: DatasetReport, pair: ConfusedPair
) -> list[tuple[dict[str, Any], Picture]]:
    """Bank rows of the pair that have a representative, each sample once, surest first."""
    found: dict[int, tuple[dict[str, Any], Picture]] = {}
    for seed in report.seeds:
        cell = seed.bank.filter(
            pl.col("true_class_id") == pair.true_id, pl.col("predicted_class_id") == pair.taken_id
        )
        for row in cell.iter_rows(named=True):
            if row["sample_id"] in found:
                continue
            representative = _representative(seed.representatives, row["sample_id"], pair)
            if representative is not None:
                found[row["sample_id"]] = (row, representative)
    return [found[key] for key in sorted(found, key=lambda k: (-found[k][0]["confidence"], k))]


def _representative(
    representatives: pl.DataFrame, sample_id: int, pair: ConfusedPair
) -> Picture | None:
    """The sample's representative for its true class, else for its highest-ranked pair."""
    rows = representatives.filter(pl.col("sample_id") == sample_id).sort(
        pl.col("class_id") != pair.true_id, "rank", "order"
    )
    if rows.is_empty():
        return None
    row = rows.row(0, named=True)
    shows, caption = _explained(row["source"], row["class_name"], pair.taken_name)
    return Picture(row["representative_path"], shows, caption)


def _explained(source: str, paired: str, taken: str) -> tuple[str, str]:
    """What a representative shows and why it was chosen."""
    if source == "confused_with_anchor":
        return paired, f"also taken for {taken}"
    if source == "confused_class":
        return paired, "also misclassified"
    if source == "anchor_class_confused":
        return taken, f"taken for {paired}"
    return paired, "drawn at random"


def _typical_images(report: DatasetReport, pair: ConfusedPair) -> list[Picture]:
    """Images of the class the sample was taken for, those recognised most surely first."""
    images = report.seeds[0].base_predictions.filter(pl.col("true_class_id") == pair.taken_id)
    recognised = images.filter("correct")
    caption = "never recognised" if recognised.is_empty() else "surely recognised"
    rows = (images if recognised.is_empty() else recognised).sort(
        "true_confidence", "sample_id", descending=[True, False]
    )
    return [
        Picture(path, pair.taken_name, caption) for path in rows["path"].head(EXAMPLES).to_list()
    ]


def _after(report: DatasetReport, sample_id: int) -> tuple[int, int]:
    answers = [
        answer
        for run in report.shown_runs
        for answer in run.predictions.filter(pl.col("sample_id") == sample_id)["correct"].to_list()
    ]
    return sum(answers), len(answers)
