"""Per-image prediction tables: what each image was taken for, and how surely."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import numpy as np
import polars as pl
import torch

from capt_core.artifacts.schemas import PREDICTIONS
from capt_core.artifacts.table_blocks import spans
from capt_core.data.dataset import Dataset

GROUPS = ("base", "novel")

Scorers = Mapping[str, Callable[[torch.Tensor], torch.Tensor]]
"""By group: function from features [n, d] to logits [n, G] over the classes of the group."""


class Watcher(Protocol):
    """Is shown how images of a group are classified."""

    @property
    def ranked(self) -> int:
        """How many of the most confident classes it wants in order."""

    def __call__(
        self, sample_ids: pl.Series, confidences: torch.Tensor, ranked: torch.Tensor
    ) -> None:
        """Some images [n]: their confidences [n, G] and classes in order, [n, `ranked` or more]."""


_FEW = 16
_SCORED = 512  # rows of a product: some libraries multiply many more at a lower rate
_SORT = 3  # of fewer than so many times those wanted, all are sorted
_CACHED = 1 << 20  # bytes that stay in a processor's cache


def ranked_classes(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices [N, count] of the highest scores, best first, lowest index on ties.

    Args:
        scores: [N, C] in fp32 or fp64, on the CPU.
        count: how many; all if there are fewer.
    """
    rows, columns = scores.shape
    if count * _SORT >= columns:
        return scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    values, order = scores.numpy(), np.empty((rows, count), dtype=np.int64)
    at_once = max(_CACHED // (columns * values.itemsize), 1)
    for start in range(0, rows, at_once):
        # The highest again and again: a few passes over rows in the cache cost less than a heap.
        left, found = values[start : start + at_once], order[start : start + at_once]
        left = left.copy() if count > 1 else left
        each, worst = np.arange(len(left)), np.empty(0)
        for rank in range(count):
            found[:, rank] = best = left.argmax(axis=1)
            worst = left[each, best]
            if rank < count - 1:
                left[each, best] = -np.inf
        # Among scores of -inf, those that were taken cannot be told from the others.
        if len(unclear := np.flatnonzero(worst == -np.inf)):
            rest = torch.from_numpy(values[start + unclear])
            found[unclear] = rest.argsort(dim=1, descending=True, stable=True)[:, :count].numpy()
    return torch.from_numpy(order)


@torch.no_grad()
def classified(
    dataset: Dataset,
    sample_ids: pl.Series,
    features: torch.Tensor,
    scorers: Scorers,
    top_classes: int,
    watchers: Mapping[str, Watcher] | None = None,
) -> pl.DataFrame:
    """Classify images among the classes of their own group (base or novel).

    Args:
        dataset: samples and classes.
        sample_ids: the images, in the order of `features`.
        features: what `scorers` take, [N, d], on the CPU.
        scorers: of every group that an image is of.
        top_classes: how many classes the `top_*` columns list (at most those of the group).
        watchers: by group, what is shown the confidences in it.

    Returns:
        Rows as in the table `predictions`, sorted by `sample_id`.
    """
    parts = []
    for group, rows in _members(dataset, sample_ids):
        # A product of a few rows may round differently from one of many.
        whole = len(rows) < _FEW or len(rows) == len(features)
        own = probabilities(scorers[group], features if whole else features[rows])
        if len(own) != len(rows):
            own = own[rows]
        ids, watcher = sample_ids.gather(rows), (watchers or {}).get(group)
        ranked = ranked_classes(own, max(top_classes, watcher.ranked if watcher else 0))
        if watcher is not None:
            watcher(ids, own, ranked)
        parts.append(_group_table(dataset, ids, group, own, ranked[:, :top_classes]))
    return _sorted(parts)


@torch.no_grad()
def probabilities(
    scorer: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor
) -> torch.Tensor:
    """Softmax [n, G] of what a scorer gives for features [n, d], some rows at a time.

    What lies between features and probabilities then stays in memory that the process keeps,
    instead of being asked of the system anew for every block.
    """
    found = None
    for span in spans(len(features), _SCORED):
        part = slice(span.start, span.stop)
        logits = scorer(features[part])
        if found is None:
            found = logits.new_empty(len(features), logits.shape[1])
        torch.softmax(logits, dim=-1, out=found[part])
    return scorer(features).softmax(dim=-1) if found is None else found


def tempered(scorers: Scorers, temperature: float) -> Scorers:
    """Scorers whose logits are divided by a temperature."""
    return {group: partial(_divided, scorer, temperature) for group, scorer in scorers.items()}


def _divided(
    scorer: Callable[[torch.Tensor], torch.Tensor], temperature: float, features: torch.Tensor
) -> torch.Tensor:
    return scorer(features) / temperature


def _sorted(parts: list[pl.DataFrame]) -> pl.DataFrame:
    table = pl.concat([PREDICTIONS.frame(), *parts])
    return table if table["sample_id"].is_sorted() else table.sort("sample_id")


def _members(dataset: Dataset, sample_ids: pl.Series) -> list[tuple[str, np.ndarray]]:
    """Groups that some images are of, and the rows of these images."""
    groups = dataset.classes["group"].gather(dataset.samples["class_id"].gather(sample_ids))
    found = ((group, np.flatnonzero((groups == group).to_numpy())) for group in GROUPS)
    return [(group, rows) for group, rows in found if len(rows)]


def _group_table(
    dataset: Dataset,
    sample_ids: pl.Series,
    group: str,
    confidences: torch.Tensor,
    top: torch.Tensor,
) -> pl.DataFrame:
    """Rows as in the table `predictions` of images of one group, by softmax over its classes."""
    class_ids = np.array(dataset.class_ids(group), dtype=np.int64)
    names = dataset.classes["class_name"]
    images = dataset.samples.select("path", "class_id", "class_name", "split")[
        sample_ids.to_numpy()
    ]
    true = torch.from_numpy(np.searchsorted(class_ids, images["class_id"].to_numpy()))
    top_ids = class_ids[top.numpy()]
    pseudo = pl.Series(top_ids[:, 0])
    table = images.with_columns(
        sample_ids.alias("sample_id"),
        pl.lit(group).alias("group"),
        pl.col("class_id").alias("true_class_id"),
        pl.col("class_name").alias("true_class"),
        pseudo.alias("pseudo_label_id"),
        names.gather(pseudo).alias("pseudo_label"),
        pl.Series("correct", (top[:, 0] == true).numpy()),
        pl.Series("confidence", _values(confidences, top[:, :1])[:, 0]),
        pl.Series("true_confidence", _values(confidences, true[:, None])[:, 0]),
        _lists("top_class_ids", pl.Series(top_ids.reshape(-1)), top.shape[1]),
        _lists("top_classes", names.gather(top_ids.reshape(-1)), top.shape[1]),
        _lists("top_confidences", pl.Series(_values(confidences, top).reshape(-1)), top.shape[1]),
    )
    return PREDICTIONS.select(table)


def _values(confidences: torch.Tensor, columns: torch.Tensor) -> np.ndarray:
    """Entries [n, k] of confidences [n, G] in fp64."""
    found: np.ndarray = confidences.gather(1, columns).double().numpy()
    return found


def _lists(name: str, values: pl.Series, length: int) -> pl.Series:
    """Values in lists of one length."""
    return values.reshape((-1, length)).arr.to_list().alias(name)
