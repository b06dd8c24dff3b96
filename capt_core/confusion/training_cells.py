"""Training images, right or wrong, that may represent a pair in place of the bank's errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl


def confusion_zones(pairs: pl.DataFrame) -> dict[int, set[int]]:
    """Of each image, the two classes that it lies between: its pseudo-label and its first pair.

    Args:
        pairs: the table `pairs`.
    """
    first = pairs.filter(rank=1).select("sample_id", "pseudo_label_id", "class_id")
    return {sample_id: {pseudo, paired} for sample_id, pseudo, paired in first.iter_rows()}


@dataclass(frozen=True)
class TrainingCells:
    """Training images by class, or by class and the zone that they lie in.

    Attributes:
        samples: of all classes, [n].
        members: of each class, or of each class and zone, `(class, the zone's other class)`.
        zones: whether an image has to lie between the two classes of the pair.
    """

    samples: np.ndarray
    members: dict[tuple[int, int], np.ndarray]
    zones: bool

    @staticmethod
    def of(train_samples: pl.DataFrame, pairs: pl.DataFrame, zones: bool) -> TrainingCells:
        """From training images (`sample_id`, `class_id`) and the table `pairs`."""
        between = confusion_zones(pairs) if zones else {}
        members: dict[tuple[int, int], list[int]] = {}
        for sample, own in train_samples.select("sample_id", "class_id").iter_rows():
            others = between.get(sample, set()) - {own} if zones else {-1}
            # A zone without the image's own class is no zone of a pair of it.
            if not zones or own in between.get(sample, ()):
                for other in others:
                    members.setdefault((own, other), []).append(sample)
        ids = train_samples["sample_id"].to_numpy()
        return TrainingCells(ids, {key: np.array(each) for key, each in members.items()}, zones)

    def candidates(self, pseudo_label: int, paired_class: int, source: int) -> np.ndarray:
        """Images of the paired class, or those of them between it and the pseudo-label's."""
        del source  # images all come from one
        other = pseudo_label if self.zones else -1
        return self.members.get((paired_class, other), self.samples[:0])
