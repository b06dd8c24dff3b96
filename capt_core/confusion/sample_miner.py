"""SAM, retrieval: the misclassified image that represents a confusion best."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import torch

from capt_core.data.dataset import Dataset

SOURCES = ("confused_with_anchor", "confused_class", "anchor_class_confused", "random_train")


def most_similar(anchor: torch.Tensor, candidates: torch.Tensor) -> tuple[int, float]:
    """Eq. 8: the candidate with the highest cosine to the anchor, lowest index on ties.

    Args:
        anchor: feature [d], unit length.
        candidates: features [n, d], unit length, n > 0.

    Returns:
        Its index and its cosine.
    """
    cosines = candidates @ anchor
    index = int(cosines.argsort(descending=True, stable=True)[0])
    return index, float(cosines[index])


@dataclass(frozen=True)
class BankCells:
    """Samples of the bank by cell: `cells[g][p]` lists those of class g taken for class p."""

    cells: dict[tuple[int, int], list[int]]

    @staticmethod
    def from_bank(bank: pl.DataFrame) -> BankCells:
        cells: dict[tuple[int, int], list[int]] = {}
        rows = bank.select("true_class_id", "predicted_class_id", "sample_id").iter_rows()
        for true_class, predicted, sample_id in rows:
            cells.setdefault((true_class, predicted), []).append(sample_id)
        return BankCells(cells)

    def row(self, true_class: int) -> list[int]:
        """All misclassified samples of a class."""
        found = [s for (g, _), samples in self.cells.items() if g == true_class for s in samples]
        return sorted(found)

    def candidates(
        self, anchor_id: int, pseudo_label: int, paired_class: int
    ) -> tuple[list[int], str]:
        """Samples that may represent a pair, and which of the fall-backs they come from.

        In order: images of the paired class taken for the pseudo-label; any misclassified image
        of the paired class; images of the pseudo-label's class taken for the paired class.
        The anchor itself is never among them. Empty when the bank holds none.
        """
        options = (
            (self.cells.get((paired_class, pseudo_label), []), SOURCES[0]),
            (self.row(paired_class), SOURCES[1]),
            (self.cells.get((pseudo_label, paired_class), []), SOURCES[2]),
        )
        for samples, source in options:
            others = [sample for sample in samples if sample != anchor_id]
            if others:
                return others, source
        return [], ""


def mine_representatives(
    dataset: Dataset,
    pairs: pl.DataFrame,
    bank: pl.DataFrame,
    train_samples: pl.DataFrame,
    features: torch.Tensor,
    fallback: str,
    seed: int,
) -> pl.DataFrame:
    """Most representative confusing sample of every (sample, pair).

    Args:
        dataset: samples and classes.
        pairs: the table `pairs`.
        bank: the table `confusion_bank`.
        train_samples: the training images (`sample_id`, `class_id`) that `random_train` draws
            from when the bank holds no candidate.
        features: of all samples of the data set, unit length, indexed by sample id.
        fallback: `random_train`, or `skip` to leave such pairs without a representative.
        seed: of the random draws.

    Returns:
        Rows as in the table `representatives`, in the order of `pairs`.
    """
    cells = BankCells.from_bank(bank)
    by_class: dict[int, list[int]] = {}
    for sample_id, class_id in train_samples.select("sample_id", "class_id").iter_rows():
        by_class.setdefault(class_id, []).append(sample_id)
    generator = random.Random(seed)
    rows = []
    columns = ("sample_id", "pseudo_label_id", "rank", "class_id")
    for anchor, pseudo_label, rank, paired in pairs.select(columns).iter_rows():
        candidates, source = cells.candidates(anchor, pseudo_label, paired)
        if not candidates and fallback == "random_train":
            candidates = _one_of(generator, by_class.get(paired, []), anchor)
            source = SOURCES[3]
        if not candidates:
            continue
        chosen, cosine = most_similar(features[anchor], features[candidates])
        rows.append(
            {
                "sample_id": anchor,
                "rank": rank,
                "class_id": paired,
                "representative_id": candidates[chosen],
                "cosine": cosine,
                "source": source,
            }
        )
    frame = pl.DataFrame(
        rows,
        schema={
            "sample_id": pl.Int64,
            "rank": pl.Int64,
            "class_id": pl.Int64,
            "representative_id": pl.Int64,
            "cosine": pl.Float64,
            "source": pl.String,
        },
    )
    images = dataset.samples.select(
        pl.col("sample_id").alias("representative_id"), pl.col("path").alias("representative_path")
    )
    named = dataset.with_names(frame, "class_id", "class_name")
    return named.join(images, on="representative_id", how="left", maintain_order="left")


def _one_of(generator: random.Random, samples: Sequence[int], anchor: int) -> list[int]:
    others = [sample for sample in samples if sample != anchor]
    return [generator.choice(others)] if others else []
