"""What SEM (eq. 6, 7) needs of a base model's confidences, kept while images are classified.

The statistics, which eq. 7 weighs with, are known only when all images are classified. They raise a
confidence to twice its value at most, so the pairs of an image are among the classes kept here; and
the mean score of a class follows from the mean confidences of the images taken for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from capt_core.advice import Remedy, run_stage
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import LIKELY_CLASSES, MEAN_CONFIDENCES
from capt_core.artifacts.table_blocks import read_columns, spans
from capt_core.artifacts.tables import read_table
from capt_core.data.dataset import Dataset
from capt_core.errors import CaptError
from capt_core.params import MOST_PAIRS

RANKED = MOST_PAIRS + 1
"""How many of an image's most confident classes have to be in order."""

# Images: for arrays of more, which would be larger, NumPy asks the system for new memory each time.
_AT_ONCE = 1024


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
        """From rows of the table `likely_classes`.

        Args:
            rows: one per image.
            class_ids: of the base classes, [B], ascending.

        Raises:
            ValueError: an image without classes, or a class that is not a base class.
        """
        sizes = rows["class_ids"].list.len().to_numpy()
        if not sizes.all() or not np.array_equal(sizes, rows["confidences"].list.len()):
            raise ValueError("holds an image without classes or their confidences")
        filled = np.arange(sizes.max(initial=0)) < sizes[:, None]
        classes = np.zeros(filled.shape, dtype=np.int64)
        confidences = np.full(filled.shape, -1, dtype=np.float32)
        classes[filled] = _positions(rows["class_ids"].explode(), class_ids)
        confidences[filled] = rows["confidences"].explode()
        return LikelyClasses(torch.from_numpy(classes), torch.from_numpy(confidences))

    def most_likely(self) -> torch.Tensor:
        """Eq. 6: positions [N] of the most confident classes, the lowest on ties."""
        best = self.confidences.numpy().argmax(axis=1)
        return self.classes.gather(1, torch.from_numpy(best)[:, None])[:, 0]


def _positions(found: pl.Series, class_ids: Sequence[int]) -> np.ndarray:
    known, wanted = np.asarray(class_ids), found.to_numpy()
    positions = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    if (known[positions] != wanted).any():
        raise ValueError("holds a class that is not a base class")
    return positions


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
        confidences: over the B base classes, fp32 [N, B], finite, on the CPU.
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
        """From the table `mean_confidences`.

        Args:
            rows: one per class that an image is taken for.
            class_ids: of the base classes, [B], ascending.

        Raises:
            ValueError: not one confidence for each base class, or a class that is none.
        """
        size, row = len(class_ids), _positions(rows["class_id"], class_ids)
        if (rows["confidences"].list.len() != size).any():
            raise ValueError("holds other than one confidence for each base class")
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
        ranked: how many of an image's most confident classes it wants in order.
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


def read_likely_classes(
    path: Path, expected: Provenance, sample_ids: pl.Series, class_ids: Sequence[int]
) -> Iterator[tuple[pl.Series, LikelyClasses]]:
    """The table `likely_classes` of a few-shot draw, some images at a time.

    Args:
        path: the Parquet file.
        expected: data set and backbone that the reader works with.
        sample_ids: the images of the draw that are of base classes, in the order of the blocks.
        class_ids: of the base classes, [B], ascending.

    Raises:
        CaptError: as `read_table`; or the table is of another draw or of other classes.
    """
    remedy = run_stage(LIKELY_CLASSES.stage, path, expected.dataset)
    table = read_columns(LIKELY_CLASSES, path, expected, "class_ids", "confidences")
    if not table["sample_id"].equals(sample_ids.sort()):
        raise CaptError(f"{path}: holds other images than the few-shot list; {remedy}")
    rows = np.searchsorted(table["sample_id"].to_numpy(), sample_ids.to_numpy())
    for span in spans(len(rows)):
        part = slice(span.start, span.stop)
        with _content_of(path, remedy):
            likely = LikelyClasses.of_table(table[rows[part]], class_ids)
        yield sample_ids[part], likely


def read_mean_confidences(
    path: Path, expected: Provenance, class_ids: Sequence[int], images: np.ndarray
) -> MeanConfidences:
    """The table `mean_confidences` of a few-shot draw.

    Args:
        path: the Parquet file.
        expected: data set and backbone that the reader works with.
        class_ids: of the base classes, [B], ascending.
        images: how many images of the draw are taken for each, [B].

    Raises:
        CaptError: as `read_table`; or the table is of another draw or of other classes.
    """
    remedy = run_stage(MEAN_CONFIDENCES.stage, path, expected.dataset)
    table = read_table(MEAN_CONFIDENCES, path, expected)
    with _content_of(path, remedy):
        means = MeanConfidences.of_table(table, class_ids)
    if not np.array_equal(means.images.numpy(), images):
        raise CaptError(f"{path}: counts other images than likely_classes lists; {remedy}")
    return means


@contextmanager
def _content_of(path: Path, remedy: Remedy) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise CaptError(f"{path}: {error}; {remedy}") from error
