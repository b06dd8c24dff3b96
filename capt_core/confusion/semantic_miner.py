"""SEM, the Semantic Confusion Miner: which other classes a sample is likely taken for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl
import torch

from capt_core.artifacts.schemas import CLASS_PAIRS, PAIRS
from capt_core.confusion.bank import count_matrix
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
    return ranked_classes(confidences, 1)[:, 0]


def confusion_scores(
    confidences: torch.Tensor, counts: torch.Tensor, pseudo: torch.Tensor
) -> torch.Tensor:
    """Eq. 7: S_i = (1 + n_i / sum_j n_j) C_i, where n is the count row of the pseudo-label.

    An empty row leaves the confidences as they are. The pseudo-label itself scores -inf.

    Args:
        confidences: C, [N, C].
        counts: N[true class][class predicted], [C, C].
        pseudo: pseudo-labels, [N].

    Returns:
        Scores [N, C] in the type of `confidences`.
    """
    rows = counts[pseudo].to(confidences.dtype)
    weights = 1 + rows / rows.sum(dim=1, keepdim=True).clamp(min=1)
    scores = weights * confidences
    return scores.scatter(1, pseudo[:, None], float("-inf"))


def _scores(
    confidences: torch.Tensor, counts: torch.Tensor, pseudo: torch.Tensor, use_statistics: bool
) -> torch.Tensor:
    # An all-zero matrix has only empty rows, which leave the confidences as they are.
    weighing = counts if use_statistics else torch.zeros_like(counts)
    return confusion_scores(confidences, weighing, pseudo)


def mine_pairs(
    dataset: Dataset,
    sample_ids: pl.Series,
    confidences: torch.Tensor,
    counts: torch.Tensor,
    pairs: int,
    use_statistics: bool = True,
    labels: torch.Tensor | None = None,
    similarities: torch.Tensor | None = None,
) -> pl.DataFrame:
    """Confusion pairs of each sample among the base classes.

    Args:
        dataset: samples and classes.
        sample_ids: the samples, in the order of `confidences`.
        confidences: over the base classes, [N, B].
        counts: confusion counts among the base classes, [B, B].
        pairs: pairs per sample, at most B - 1.
        use_statistics: weight confidences by the counts (eq. 7); otherwise rank by confidence.
        labels: positions [N] of the true classes, to mine for these; None mines for the
            pseudo-labels (eq. 6).
        similarities: scores [N, B] that take the place of eq. 7, such as `whole_bank_similarities`;
            classes that score -inf make no pair.

    Returns:
        Rows as in the table `pairs`, by sample in the given order, then rank.
    """
    class_ids = torch.tensor(dataset.class_ids("base"), dtype=torch.long)
    kept = min(pairs, len(class_ids) - 1)
    pseudo = pseudo_labels(confidences) if labels is None else labels
    if similarities is None:
        scores = _scores(confidences, counts, pseudo, use_statistics)
    else:
        scores = similarities.scatter(1, pseudo[:, None], float("-inf"))
    top = ranked_classes(scores, kept)
    names = dataset.class_names
    anchors = class_ids[pseudo].repeat_interleave(kept).tolist()
    partners = class_ids[top].flatten().tolist()
    return PAIRS.frame(
        {
            "sample_id": sample_ids.gather(
                [i for i in range(len(sample_ids)) for _ in range(kept)]
            ),
            "pseudo_label_id": anchors,
            "pseudo_label": [names[class_id] for class_id in anchors],
            "rank": list(range(1, kept + 1)) * len(sample_ids),
            "class_id": partners,
            "class_name": [names[class_id] for class_id in partners],
            "confidence": confidences.gather(1, top).flatten().tolist(),
            "count": counts[pseudo[:, None], top].flatten().tolist(),
            "score": scores.gather(1, top).flatten().tolist(),
        }
    ).filter(pl.col("score").is_finite())


def class_pairs(
    dataset: Dataset,
    confidences: torch.Tensor,
    counts: torch.Tensor,
    text_features: torch.Tensor,
    pairs: int,
    use_statistics: bool = True,
    labels: torch.Tensor | None = None,
) -> pl.DataFrame:
    """Confusion pairs per base class: highest mean score over the samples taken for it.

    A class that no sample was taken for has no scores; its partners are then the classes whose
    text features are most similar (`source` says which of the two was used).

    Args:
        dataset: samples and classes.
        confidences: of the mined samples over the base classes, [N, B].
        counts: confusion counts among the base classes, [B, B].
        text_features: of the base classes, unit length, [B, d].
        pairs: partners per class, at most B - 1.
        use_statistics: as in `mine_pairs`.
        labels: as in `mine_pairs`.

    Returns:
        Rows as in the table `class_pairs`, by class, then rank.
    """
    class_ids = dataset.class_ids("base")
    kept = min(pairs, len(class_ids) - 1)
    pseudo = pseudo_labels(confidences) if labels is None else labels
    scores = _scores(confidences, counts, pseudo, use_statistics)
    similarity = text_similarities(text_features)
    names = dataset.class_names
    rows = []
    for index, class_id in enumerate(class_ids):
        taken = scores[pseudo == index]
        mined = len(taken) > 0
        mean = taken.mean(dim=0) if mined else similarity[index]
        for rank, partner in enumerate(ranked_classes(mean[None], kept)[0].tolist(), start=1):
            pair, source = (class_id, class_ids[partner]), "score" if mined else TEXT_SIMILARITY
            score, count = float(mean[partner]), int(counts[index, partner])
            rows.append(_class_pair(names, pair, rank, score, count, source))
    return CLASS_PAIRS.frame(rows)


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
        _class_pair(
            names, (index, partner), rank, float(similarity[index, partner]), 0, TEXT_SIMILARITY
        )
        for index, partners in enumerate(top.tolist())
        if index not in mined
        for rank, partner in enumerate(partners, start=1)
    ]
    return CLASS_PAIRS.frame(rows)


def _class_pair(
    names: Sequence[str], pair: tuple[int, int], rank: int, score: float, count: int, source: str
) -> dict[str, object]:
    """A row of the table `class_pairs`; `pair` holds the ids of the class and its partner."""
    class_id, paired_id = pair
    return {
        "class_id": class_id,
        "class_name": names[class_id],
        "rank": rank,
        "paired_class_id": paired_id,
        "paired_class": names[paired_id],
        "score": score,
        "count": count,
        "source": source,
    }


@dataclass(frozen=True)
class MinedPairs:
    """Tables `pairs` and `class_pairs`."""

    pairs: pl.DataFrame
    class_pairs: pl.DataFrame


def pairs_of_draw(
    dataset: Dataset,
    drawn: pl.DataFrame,
    confidences: torch.Tensor,
    texts: torch.Tensor,
    statistics: pl.DataFrame,
    settings: MinePairs,
    similarities: torch.Tensor | None = None,
) -> MinedPairs:
    """Confusion pairs of the few-shot training images and of the classes (eq. 6, 7).

    Args:
        dataset: samples and classes.
        drawn: rows of the table `fewshot`, N training images of trained classes.
        confidences: of these images over the B trained classes, [N, B], fp64.
        texts: class texts of the base model of the trained classes, unit length, [B, d].
        statistics: the table `confusion_statistics`.
        settings: the section `mine_pairs`.
        similarities: what ranks classes with ``selection: any``, [N, B]; see
            `whole_bank_similarities`.
    """
    base = dataset.class_ids("base")
    counts = torch.from_numpy(count_matrix(statistics, len(dataset.classes))[base][:, base])
    kept, weighted = settings.pairs, settings.use_statistics
    labels = None
    if settings.pseudo_label == "real_gt":
        labels = torch.tensor([base.index(label) for label in drawn["class_id"].to_list()])
    ids = drawn["sample_id"]
    return MinedPairs(
        mine_pairs(dataset, ids, confidences, counts, kept, weighted, labels, similarities),
        class_pairs(dataset, confidences, counts, texts, kept, weighted, labels),
    )
