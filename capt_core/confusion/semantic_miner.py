"""SEM, the Semantic Confusion Miner: which other classes a sample is likely taken for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from capt_core.artifacts.schemas import CLASS_PAIRS, PAIRS
from capt_core.confusion.bank import count_matrix
from capt_core.confusion.likely import (
    ConfidenceSums,
    LikelyClasses,
    MeanConfidences,
)
from capt_core.data.dataset import Dataset
from capt_core.evaluation.predictions import ranked_classes
from capt_core.params import MinePairs

TEXT_SIMILARITY = "text_similarity"
"""`source` of a pair that text features gave, not images."""


def pseudo_labels(confidences: torch.Tensor) -> torch.Tensor:
    """Eq. 6: the most confident class of each row, lowest index on ties.

    Args:
        confidences: [N, C].

    Returns:
        Class indices [N].
    """
    # NumPy's is the faster one; both take the first of equal values.
    return torch.from_numpy(confidences.numpy().argmax(axis=1))


def score_weights(counts: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The factors of eq. 7, 1 + n_i / sum_j n_j, where n is the count row of a pseudo-label.

    Args:
        counts: N[true class][class predicted], [C, C].
        dtype: of the factors.

    Returns:
        Factors [C, C], row = pseudo-label; those of an empty row are 1.
    """
    rows = counts.to(dtype)
    return 1 + rows / rows.sum(dim=1, keepdim=True).clamp(min=1)


def confusion_scores(
    confidences: torch.Tensor, classes: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Eq. 7 of samples, for some classes of each: S_i = (1 + n_i / sum_j n_j) C_i.

    An empty row of counts leaves the confidences as they are. The pseudo-label scores -inf.

    Args:
        confidences: C, [N, L].
        classes: the classes i, [N, L].
        labels: pseudo-labels [N].
        weights: the factors, [C, C]; see `score_weights`.

    Returns:
        Scores [N, L], of the type of the weights.
    """
    own = labels[:, None]
    scores = weights[own, classes].mul_(confidences)
    return scores.masked_fill_(classes == own, float("-inf"))


class PairMiner:
    """Confusion pairs of samples and of the base classes.

    Args:
        dataset: samples and classes.
        counts: confusion counts among the base classes, [B, B].
        pairs: pairs per sample and per class, at most B - 1.
        use_statistics: weight confidences by the counts (eq. 7); otherwise rank by confidence.
    """

    def __init__(
        self, dataset: Dataset, counts: torch.Tensor, pairs: int, use_statistics: bool = True
    ) -> None:
        self._class_ids = np.array(dataset.class_ids("base"), dtype=np.int64)
        self._names = dataset.classes["class_name"]
        self._counts, self._kept = counts, min(pairs, len(counts) - 1)
        # An all-zero matrix has only empty rows, which leave the confidences as they are.
        self._weights = score_weights(counts if use_statistics else torch.zeros_like(counts))

    def pairs(
        self,
        sample_ids: pl.Series,
        labels: torch.Tensor,
        likely: LikelyClasses,
        similarities: torch.Tensor | None = None,
    ) -> pl.DataFrame:
        """Confusion pairs of each sample among the base classes.

        Args:
            sample_ids: N samples.
            labels: positions [N] of the classes that pairs are mined for: pseudo-labels (eq. 6).
            likely: the classes that come into question, L for each sample.
            similarities: scores [N, L] that take the place of eq. 7, such as those of `WholeBank`;
                classes that score -inf make no pair.

        Returns:
            Rows as in the table `pairs`, by sample in the given order, then rank.
        """
        if similarities is None:
            scores = confusion_scores(likely.confidences, likely.classes, labels, self._weights)
            scores.masked_fill_(likely.confidences < 0, float("-inf"))
        else:
            own = likely.classes == labels[:, None]
            scores = similarities.masked_fill(own, float("-inf"))
        best = ranked_classes(scores, self._kept)
        top = likely.classes.gather(1, best)
        anchors = self._class_ids[labels.repeat_interleave(self._kept).numpy()]
        partners = self._class_ids[top.flatten().numpy()]
        return PAIRS.frame(
            {
                "sample_id": sample_ids.gather(np.arange(len(sample_ids)).repeat(self._kept)),
                "pseudo_label_id": anchors,
                "pseudo_label": self._names.gather(anchors),
                "rank": np.tile(np.arange(1, self._kept + 1), len(sample_ids)),
                "class_id": partners,
                "class_name": self._names.gather(partners),
                "confidence": likely.confidences.gather(1, best).double().flatten().numpy(),
                "count": self._counts[labels[:, None], top].flatten().numpy(),
                "score": scores.gather(1, best).flatten().numpy(),
            }
        ).filter(pl.col("score").is_finite())

    def class_pairs(self, means: MeanConfidences, text_features: torch.Tensor) -> pl.DataFrame:
        """Confusion pairs per base class: highest mean score over the samples taken for it.

        A class that none of them was taken for has no scores; its partners are then the classes
        whose text features are most similar (`source` says which of the two was used).

        Args:
            means: confidences of the samples, by pseudo-label.
            text_features: of the base classes, unit length, [B, d].

        Returns:
            Rows as in the table `class_pairs`, by class, then rank.
        """
        taken = means.images[:, None] > 0
        own = (self._weights * means.values).fill_diagonal_(float("-inf"))
        scores = own.where(taken, text_similarities(text_features))
        top = ranked_classes(scores, self._kept)
        classes = self._class_ids.repeat(self._kept)
        partners = self._class_ids[top.flatten().numpy()]
        source = pl.Series([TEXT_SIMILARITY, "score"]).gather(taken.int().flatten().numpy())
        return CLASS_PAIRS.frame(
            {
                "class_id": classes,
                "class_name": self._names.gather(classes),
                "rank": np.tile(np.arange(1, self._kept + 1), len(top)),
                "paired_class_id": partners,
                "paired_class": self._names.gather(partners),
                "score": scores.gather(1, top).flatten().numpy(),
                "count": self._counts.gather(1, top).flatten().numpy(),
                "source": source.gather(np.arange(len(top)).repeat(self._kept)),
            }
        )


def text_similarities(texts: torch.Tensor) -> torch.Tensor:
    """Cosines of text features of unit length, [C, d] to [C, C] in fp64; -inf on the diagonal."""
    return (texts @ texts.T).double().fill_diagonal_(float("-inf"))


def predicted_pairs(
    names: Sequence[str], texts: torch.Tensor, pairs: int, mined: Collection[int] = ()
) -> pl.DataFrame:
    """Confusion pairs of classes that nothing is mined for, predicted from names alone.

    The partners of such a class are the classes, base or novel, whose text features are most
    similar to its own; no image is looked at.

    Args:
        names: of the classes, by class id.
        texts: their text features, unit length, [C, d].
        pairs: partners per class; a class has at most C - 1.
        mined: ids of the classes that have pairs by eq. 7, which get none here.

    Returns:
        Rows as in the table `class_pairs`, by class, then rank; `source` is `text_similarity`.
    """
    similarity = text_similarities(texts)
    top = ranked_classes(similarity, min(pairs, len(texts) - 1))
    rows = [
        {
            "class_id": index,
            "class_name": names[index],
            "rank": rank,
            "paired_class_id": partner,
            "paired_class": names[partner],
            "score": float(similarity[index, partner]),
            "count": 0,
            "source": TEXT_SIMILARITY,
        }
        for index, partners in enumerate(top.tolist())
        if index not in mined
        for rank, partner in enumerate(partners, start=1)
    ]
    return CLASS_PAIRS.frame(rows)


@dataclass(frozen=True)
class MinedPairs:
    """Tables `pairs` and `class_pairs`."""

    pairs: pl.DataFrame
    class_pairs: pl.DataFrame


def miner_of_draw(dataset: Dataset, statistics: pl.DataFrame, settings: MinePairs) -> PairMiner:
    """What mines a few-shot draw with the settings `mine_pairs`, by `confusion_statistics`."""
    base = dataset.class_ids("base")
    counts = torch.from_numpy(count_matrix(statistics, len(dataset.classes))[base][:, base])
    return PairMiner(dataset, counts, settings.pairs, settings.use_statistics)


def labels_of_draw(
    dataset: Dataset, sample_ids: pl.Series, confidences: torch.Tensor, settings: MinePairs
) -> torch.Tensor:
    """Positions [N] of the classes that samples are mined for, by confidences [N, B]."""
    if settings.pseudo_label != "real_gt":
        return pseudo_labels(confidences)
    labels = dataset.samples["class_id"].gather(sample_ids).to_numpy()
    return torch.from_numpy(np.searchsorted(dataset.class_ids("base"), labels))


def pairs_of_draw(
    dataset: Dataset,
    drawn: pl.DataFrame,
    confidences: torch.Tensor,
    texts: torch.Tensor,
    statistics: pl.DataFrame,
    settings: MinePairs,
) -> MinedPairs:
    """Confusion pairs of the few-shot training images and of the classes (eq. 6, 7).

    Args:
        dataset: samples and classes.
        drawn: rows of the table `fewshot`, N training images of trained classes.
        confidences: of these images over the B trained classes, [N, B].
        texts: class texts of the base model of the trained classes, unit length, [B, d].
        statistics: the table `confusion_statistics`.
        settings: the section `mine_pairs`.
    """
    miner, ids = miner_of_draw(dataset, statistics, settings), drawn["sample_id"]
    labels = labels_of_draw(dataset, ids, confidences, settings)
    sums = ConfidenceSums(len(texts))
    sums.add(labels, confidences)
    pairs = miner.pairs(ids, labels, LikelyClasses.every(confidences))
    return MinedPairs(pairs, miner.class_pairs(sums.means(), texts))
