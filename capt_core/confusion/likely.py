"""What SEM (eq. 6, 7) needs of a base model's confidences, kept while images are classified.

The statistics, which eq. 7 weighs with, are known only when all images are classified. They raise a
confidence to twice its value at most, so the pairs of an image are among the classes kept here; and
the mean score of a class follows from the mean confidences of the images taken for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from capt_core.artifacts.schemas import LIKELY_CLASSES, MEAN_CONFIDENCES
from capt_core.artifacts.table_blocks import spans
from capt_core.data.dataset import Dataset
from capt_core.params import MOST_PAIRS

RANKED = MOST_PAIRS + 1
"""How many of an image's most confident classes have to be in order."""

_AT_ONCE = 1024  # images: what is computed of them stays in memory that the process keeps


@dataclass(frozen=True)
class LikelyClasses:
    """Classes that may be among the pairs of N images, and the base model's confidences in them.

    Attributes:
        classes: positions among the B base classes, ascending, [N, L]; 0 behind the last.
        confidences: of these classes, [N, L]; -1 behind the last.
    """

    classes: torch.Tensor
    confidences: torch.Tensor

    @staticmethod
    def every(confidences: torch.Tensor) -> LikelyClasses:
        """All classes, of confidences [N, B]."""
        return LikelyClasses(torch.arange(confidences.shape[1]).expand_as(confidences), confidences)

    @staticmethod
    def of_table(rows: pl.DataFrame, class_ids: Sequence[int]) -> LikelyClasses:
        """From rows of the table `likely_classes`; `class_ids` are those of the base classes."""
        sizes = rows["class_ids"].list.len().to_numpy()
        filled = np.arange(sizes.max(initial=0)) < sizes[:, None]
        classes = np.zeros(filled.shape, dtype=np.int64)
        confidences = np.full(filled.shape, -1, dtype=np.float32)
        classes[filled] = np.searchsorted(class_ids, rows["class_ids"].explode().to_numpy())
        confidences[filled] = rows["confidences"].explode().to_numpy()
        return LikelyClasses(torch.from_numpy(classes), torch.from_numpy(confidences))

    def pseudo_labels(self) -> torch.Tensor:
        """Eq. 6: positions [N] of the most confident classes, the lowest on ties."""
        best = self.confidences.numpy().argmax(axis=1)
        return self.classes.gather(1, torch.from_numpy(best)[:, None])[:, 0]


def likely_classes(
    sample_ids: pl.Series,
    confidences: torch.Tensor,
    ranked: torch.Tensor,
    class_ids: Sequence[int],
) -> pl.DataFrame:
    """The classes that may be among the first `MOST_PAIRS` pairs of images, by eq. 7.

    Whatever class is left out as the pseudo-label, `MOST_PAIRS` others score at least the
    confidence that is next in order. No class of less than half of it can score as much.

    Args:
        sample_ids: N images.
        confidences: over the B base classes, fp32 [N, B], on the CPU.
        ranked: positions of the most confident classes, best first, [N, `RANKED`]; [N, B] if that
            is less.
        class_ids: of the base classes, [B].

    Returns:
        Rows as in the table `likely_classes`.
    """
    import pyarrow as pa

    values, (images, classes) = confidences.numpy(), confidences.shape
    least = confidences.gather(1, ranked[:, :RANKED][:, -1:]).numpy() / 2
    places = np.flatnonzero(values >= least)
    starts = np.searchsorted(places, np.arange(images + 1) * classes)
    ids = np.asarray(class_ids, dtype=np.int64)[places % classes]
    lists = pa.table(
        {
            "class_ids": pa.LargeListArray.from_arrays(starts, ids),
            "confidences": pa.LargeListArray.from_arrays(starts, values.ravel()[places]),
        }
    )
    return LIKELY_CLASSES.select(pl.DataFrame(lists).with_columns(sample_ids.alias("sample_id")))


@dataclass(frozen=True)
class MeanConfidences:
    """Confidences in the B base classes, averaged over the images with the same pseudo-label.

    Attributes:
        values: in fp64, [B, B], row = pseudo-label; 0 in the row of a class that no image has.
        images: how many have each pseudo-label, [B].
    """

    values: torch.Tensor
    images: torch.Tensor

    @staticmethod
    def of_table(rows: pl.DataFrame, class_ids: Sequence[int]) -> MeanConfidences:
        """From the table `mean_confidences`; `class_ids` are those of the base classes."""
        size, row = len(class_ids), np.searchsorted(class_ids, rows["class_id"].to_numpy())
        values, images = np.zeros((size, size)), np.zeros(size, dtype=np.int64)
        images[row] = rows["images"].to_numpy()
        values[row] = rows["confidences"].explode().to_numpy().reshape(-1, size)
        return MeanConfidences(torch.from_numpy(values), torch.from_numpy(images))

    def table(self, dataset: Dataset) -> pl.DataFrame:
        """Rows as in the table `mean_confidences`."""
        class_ids = pl.Series(dataset.class_ids("base"))
        taken = self.images.numpy().nonzero()[0]
        return MEAN_CONFIDENCES.frame(
            {
                "class_id": class_ids.gather(taken),
                "class_name": dataset.classes["class_name"].gather(class_ids.gather(taken)),
                "images": self.images.numpy()[taken],
                "confidences": self.values.numpy()[taken].tolist(),
            }
        )


class ConfidenceSums:
    """Sums of confidences in B classes over images with the same label, a block at a time."""

    def __init__(self, classes: int) -> None:
        self._sums = np.zeros((classes, classes))
        self._images = np.zeros(classes, dtype=np.int64)

    def add(self, labels: torch.Tensor, confidences: torch.Tensor) -> None:
        """Add images: positions [N] of their labels, and confidences [N, B] on the CPU."""
        from scipy.sparse import csr_array

        values = confidences.numpy()
        for span in spans(len(values), _AT_ONCE):
            part, ones = slice(span.start, span.stop), np.ones(len(span))
            found, row = np.unique(labels.numpy()[part], return_inverse=True)
            shape = len(found), len(span)
            members = csr_array((ones, (row, np.arange(len(span)))), shape=shape)
            self._sums[found] += members @ values[part]
            self._images[found] += np.bincount(row)

    def means(self) -> MeanConfidences:
        """The average of each label."""
        values = self._sums / self._images.clip(min=1)[:, None]
        return MeanConfidences(torch.from_numpy(values), torch.from_numpy(self._images))


@dataclass(frozen=True)
class DrawnConfidences:
    """Keeps what SEM needs of the few-shot training images among those that are classified.

    Attributes:
        drawn: whether a sample is such an image, by sample id.
        class_ids: of the base classes, [B].
        sums: takes their confidences, by pseudo-label.
        write: takes rows of the table `likely_classes`.
    """

    drawn: np.ndarray
    class_ids: Sequence[int]
    sums: ConfidenceSums
    write: Callable[[pl.DataFrame], None]
    ranked: int = RANKED

    def __call__(
        self, sample_ids: pl.Series, confidences: torch.Tensor, ranked: torch.Tensor
    ) -> None:
        """Images of base classes; see `likely_classes`."""
        drawn = self.drawn[sample_ids.to_numpy()]
        if not drawn.all():
            rows = torch.from_numpy(drawn.nonzero()[0])
            sample_ids = sample_ids.filter(drawn)
            confidences, ranked = confidences[rows], ranked[rows]
        if len(sample_ids):
            self.write(likely_classes(sample_ids, confidences, ranked, self.class_ids))
            self.sums.add(ranked[:, 0], confidences)
