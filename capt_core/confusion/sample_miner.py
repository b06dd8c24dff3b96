"""SAM, retrieval: the misclassified image that represents a confusion best."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl
import torch

from capt_core import params
from capt_core.artifacts.schemas import REPRESENTATIVES
from capt_core.data.dataset import Dataset

SOURCES = (
    "confused_with_anchor",
    "confused_class",
    "anchor_class_confused",
    "random_train",
    "zone",
    "nearest",
)


def most_similar(
    anchor: torch.Tensor, candidates: torch.Tensor, count: int = 1
) -> list[tuple[int, float]]:
    """Eq. 8: the candidates with the highest cosine to the anchor, lowest index on ties.

    Args:
        anchor: feature [d], unit length.
        candidates: features [n, d], unit length.
        count: how many; all if there are fewer.

    Returns:
        Index and cosine of each, the most similar first.
    """
    cosines = candidates @ anchor
    order = cosines.argsort(descending=True, stable=True)[:count].tolist()
    return [(index, float(cosines[index])) for index in order]


def whole_bank_similarities(
    sample_ids: Sequence[int], bank: pl.DataFrame, features: torch.Tensor, class_ids: Sequence[int]
) -> torch.Tensor:
    """Eq. 8 over the whole bank: cosine of the most similar misclassified image of each class.

    Args:
        sample_ids: N anchors; an anchor is never compared with itself.
        bank: the table `confusion_bank`.
        features: of all samples of the data set, unit length, indexed by sample id.
        class_ids: B classes, in the order of the columns.

    Returns:
        Cosines [N, B] in fp64; -inf where the bank holds no other image of the class.
    """
    found = torch.full((len(sample_ids), len(class_ids)), float("-inf"), dtype=torch.float64)
    anchors = torch.tensor(list(sample_ids), dtype=torch.long)
    for column, class_id in enumerate(class_ids):
        members = bank.filter(pl.col("true_class_id") == class_id)["sample_id"].unique().sort()
        if members.is_empty():
            continue
        others = torch.tensor(members.to_list(), dtype=torch.long)
        cosines = (features[anchors] @ features[others].T).double()
        cosines[anchors[:, None] == others] = float("-inf")
        found[:, column] = cosines.amax(dim=1)
    return found


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

    @cached_property
    def rows(self) -> dict[int, list[int]]:
        """All misclassified samples of each class, each once, ascending."""
        found: dict[int, set[int]] = {}
        for (true_class, _), samples in self.cells.items():
            found.setdefault(true_class, set()).update(samples)
        return {true_class: sorted(samples) for true_class, samples in found.items()}

    def candidates(self, pseudo_label: int, paired_class: int) -> list[tuple[str, list[int]]]:
        """Samples that may represent a pair, by where they come from, the best source first.

        In order: images of the paired class taken for the pseudo-label; any misclassified image
        of the paired class; images of the pseudo-label's class taken for the paired class.
        """
        return [
            (SOURCES[0], self.cells.get((paired_class, pseudo_label), [])),
            (SOURCES[1], self.rows.get(paired_class, [])),
            (SOURCES[2], self.cells.get((pseudo_label, paired_class), [])),
        ]


def confusion_zones(pairs: pl.DataFrame) -> dict[int, set[int]]:
    """Of each image, the two classes that it lies between: its pseudo-label and its first pair.

    Args:
        pairs: the table `pairs`.
    """
    first = pairs.filter(rank=1).select("sample_id", "pseudo_label_id", "class_id")
    return {sample_id: {pseudo, paired} for sample_id, pseudo, paired in first.iter_rows()}


def error_share(representatives: pl.DataFrame, bank: pl.DataFrame) -> float | None:
    """Share of representatives that the base model misclassifies, from 0 to 1; None of none.

    Args:
        representatives: the table `representatives`.
        bank: the table `confusion_bank`.
    """
    if representatives.is_empty():
        return None
    wrong = representatives["representative_id"].is_in(bank["sample_id"].implode())
    return int(wrong.sum()) / len(wrong)


def mine_representatives(
    dataset: Dataset,
    pairs: pl.DataFrame,
    bank: pl.DataFrame,
    train_samples: pl.DataFrame,
    features: torch.Tensor,
    settings: params.MineSamples,
    seed: int,
    whole_bank: bool = False,
) -> pl.DataFrame:
    """Most representative confusing samples of every (sample, pair).

    Better sources come first (`BankCells.candidates`), the most similar images of a source first;
    an image represents a pair once, and the anchor itself never.

    Args:
        dataset: samples and classes.
        pairs: the table `pairs`.
        bank: the table `confusion_bank`.
        train_samples: the training images (`sample_id`, `class_id`) that random images of the
            paired class are drawn from.
        features: of all samples of the data set, unit length, indexed by sample id.
        settings: `choice` other than `representative` looks for training images, right or wrong,
            instead of into the bank: `nearest` takes the most similar ones of the paired class,
            `zone` those of them whose pseudo-label and first pair are the pair's two classes,
            `random` draws, `none` takes nothing; `representatives` per pair; `fallback`
            `random_train` draws what is lacking, `skip` does without.
        seed: of the random draws.
        whole_bank: take any misclassified image of the paired class, whatever it was taken for.

    Returns:
        Rows as in the table `representatives`, in the order of `pairs`, then of choice.
    """
    if settings.choice == "none":
        return REPRESENTATIVES.frame([])
    cells = BankCells.from_bank(bank)
    zones = confusion_zones(pairs)
    by_class: dict[int, list[int]] = {}
    for sample_id, class_id in train_samples.select("sample_id", "class_id").iter_rows():
        by_class.setdefault(class_id, []).append(sample_id)
    generator = random.Random(seed)
    names, paths = dataset.class_names, dataset.samples["path"]
    rows = []
    columns = ("sample_id", "pseudo_label_id", "rank", "class_id")
    for anchor, pseudo_label, rank, paired in pairs.select(columns).iter_rows():
        members = by_class.get(paired, [])
        options: list[tuple[str, list[int]]] = []
        if settings.choice == "representative":
            options = cells.candidates(pseudo_label, paired)
            options = options[1:2] if whole_bank else options
        elif settings.choice == "zone":
            between = {pseudo_label, paired}
            options = [(SOURCES[4], [each for each in members if zones.get(each) == between])]
        elif settings.choice == "nearest":
            options = [(SOURCES[5], members)]
        chosen = _from_bank(options, anchor, features, settings.representatives)
        missing = settings.representatives - len(chosen)
        if missing and (settings.choice == "random" or settings.fallback == "random_train"):
            rest = [s for s in members if s != anchor and s not in chosen]
            for sample in generator.sample(rest, min(missing, len(rest))):
                chosen[sample] = (float(features[sample] @ features[anchor]), SOURCES[3])
        rows += [
            {
                "sample_id": anchor,
                "rank": rank,
                "class_id": paired,
                "class_name": names[paired],
                "order": order,
                "representative_id": sample,
                "representative_path": paths[sample],
                "cosine": cosine,
                "source": source,
            }
            for order, (sample, (cosine, source)) in enumerate(chosen.items(), start=1)
        ]
    return REPRESENTATIVES.frame(rows)


def _from_bank(
    options: Sequence[tuple[str, Sequence[int]]], anchor: int, features: torch.Tensor, count: int
) -> dict[int, tuple[float, str]]:
    """Cosine and source of up to `count` candidates, in the order they were chosen."""
    chosen: dict[int, tuple[float, str]] = {}
    for source, samples in options:
        if len(chosen) == count:
            break
        rest = [sample for sample in samples if sample != anchor and sample not in chosen]
        nearest = most_similar(features[anchor], features[rest], count - len(chosen))
        chosen |= {rest[index]: (cosine, source) for index, cosine in nearest}
    return chosen
