"""SEM: pseudo-labels (eq. 6), scores (eq. 7) and the pairs they give."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capt_core.artifacts.schemas import CLASS_PAIRS, PAIRS
from capt_core.artifacts.tables import schema_problem
from capt_core.confusion.likely import ConfidenceSums, LikelyClasses
from capt_core.confusion.semantic_miner import (
    PairMiner,
    confusion_scores,
    predicted_pairs,
    pseudo_labels,
    score_weights,
)
from capt_core.data.dataset import Dataset
from capt_core.evaluation.predictions import ranked_classes
from tests.toys import toy_dataset

INF = float("inf")


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
    miner = PairMiner(dataset, counts, pairs, use_statistics)
    labels = pseudo_labels(confidences) if labels is None else labels
    return miner.pairs(sample_ids, labels, LikelyClasses.every(confidences), similarities)


def class_pairs(
    dataset: Dataset,
    confidences: torch.Tensor,
    counts: torch.Tensor,
    texts: torch.Tensor,
    pairs: int,
    labels: torch.Tensor | None = None,
) -> pl.DataFrame:
    sums = ConfidenceSums(len(counts))
    sums.add(pseudo_labels(confidences) if labels is None else labels, confidences)
    return PairMiner(dataset, counts, pairs).class_pairs(sums.means(), texts)


def test_the_pseudo_label_is_the_most_confident_class() -> None:
    confidences = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    assert pseudo_labels(confidences).tolist() == [1, 2]


def test_ties_go_to_the_lowest_class() -> None:
    even = torch.full((1, 70), 1 / 70)  # long enough for an unstable sort to show
    assert pseudo_labels(even).tolist() == [0]
    assert ranked_classes(even, 70).tolist() == [list(range(70))]
    assert ranked_classes(torch.tensor([[0.1, 0.4, 0.1, 0.4]]), 3).tolist() == [[1, 3, 0]]


@given(
    *(st.integers(0, 6), st.integers(1, 30), st.integers(0, 12)),
    *(st.integers(0, 9999), st.integers(0, 12), st.booleans()),
)
def test_the_highest_are_those_of_a_stable_sort(
    rows: int, columns: int, count: int, seed: int, finite: int, single: bool
) -> None:
    scores = torch.randint(0, 12, (rows, columns), generator=torch.Generator().manual_seed(seed))
    scores = scores.double().masked_fill(scores >= finite, -INF)
    scores[:, columns // 2 :].masked_fill_(scores[:, columns // 2 :] == 3, float("nan"))
    scores = scores.float() if single else scores
    given = scores.clone()
    expected = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    assert torch.equal(ranked_classes(scores, count), expected)
    assert torch.equal(scores.nan_to_num(), given.nan_to_num())


def test_the_highest_of_more_rows_than_are_looked_at_at_once() -> None:
    scores = torch.randint(0, 9, (3000, 100), generator=torch.Generator().manual_seed(1)).double()
    scores[1500:1600] = -INF
    expected = scores.argsort(dim=1, descending=True, stable=True)[:, :5]
    assert torch.equal(ranked_classes(scores, 5), expected)


def test_scores_by_hand() -> None:
    # Method facts 8.5: counts (0, 3, 5), confidences (0.5, 0.2, 0.25), pseudo-label 0.
    counts = torch.tensor([[0, 3, 5], [9, 0, 9], [9, 9, 0]])
    confidences = torch.tensor([[0.5, 0.2, 0.25]], dtype=torch.float64)
    every, label = torch.arange(3)[None], torch.tensor([0])
    scores = confusion_scores(confidences, every, label, score_weights(counts))
    torch.testing.assert_close(
        scores, torch.tensor([[-INF, 0.275, 0.40625]], dtype=torch.float64), rtol=0, atol=1e-12
    )
    # An empty row leaves the confidences.
    scores = confusion_scores(confidences, every, label, score_weights(0 * counts))
    assert scores.tolist() == [[-INF, 0.2, 0.25]]
    # Of some classes, in any order.
    scores = confusion_scores(
        torch.tensor([[0.25, 0.5]]), torch.tensor([[2, 0]]), label, score_weights(counts)
    )
    assert scores.tolist() == [[0.40625, -INF]]


def test_scores_take_the_row_of_the_pseudo_label_not_its_column() -> None:
    counts = torch.tensor([[0, 4, 0], [0, 0, 0], [7, 0, 0]])
    confidences = torch.tensor([[0.3, 0.1, 0.6], [0.4, 0.25, 0.35]], dtype=torch.float64)
    dataset = toy_dataset([0, 1], 6)
    pairs = mine_pairs(dataset, pl.Series([0, 1]), confidences, counts, 2)
    scores = pairs.select("sample_id", "class_id", "score").rows()
    assert scores == [(0, 0, 0.6), (0, 1, 0.1), (1, 1, 0.5), (1, 2, 0.35)]


def test_pairs_by_hand() -> None:
    dataset = toy_dataset([0, 1], 6)
    confidences = torch.tensor([[0.5, 0.2, 0.3], [0.25, 0.35, 0.4]], dtype=torch.float64)
    counts = torch.tensor([[0, 3, 1], [0, 0, 0], [1, 0, 0]])
    pairs = mine_pairs(dataset, pl.Series([1, 0]), confidences, counts, 2)
    columns = ("sample_id", "pseudo_label", "rank", "class_id", "class_name", "count")
    assert pairs.select(columns).rows() == [
        (1, "c0", 1, 2, "c2", 1),  # 0.3 x 1.25 = 0.375
        (1, "c0", 2, 1, "c1", 3),  # 0.2 x 1.75 = 0.35
        (0, "c2", 1, 0, "c0", 1),  # 0.25 x 2 = 0.5
        (0, "c2", 2, 1, "c1", 0),  # 0.35
    ]
    np.testing.assert_allclose(pairs["score"].to_numpy(), [0.375, 0.35, 0.5, 0.35], rtol=1e-12)
    np.testing.assert_allclose(pairs["confidence"].to_numpy(), [0.3, 0.2, 0.25, 0.35], rtol=1e-12)
    assert schema_problem(PAIRS, pairs) is None


def random_case(
    images: int, base: int, seed: int, coarse: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences [N, B] and counts [B, B]; coarse ones are full of ties."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, base, generator=generator, dtype=torch.float64)
    if coarse:
        logits = logits.round()
    counts = torch.randint(0, 4, (base, base), generator=generator)
    counts[torch.rand(base, generator=generator) < 0.3] = 0
    return logits.softmax(dim=1), counts.fill_diagonal_(0)


@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 9), st.integers(0, 9999), st.booleans())
def test_pairs_of_any_predictions(
    images: int, base: int, asked: int, seed: int, coarse: bool
) -> None:
    confidences, counts = random_case(images, base, seed, coarse)
    dataset = toy_dataset([0] * images, 2 * base)
    pairs = mine_pairs(dataset, dataset.samples["sample_id"], confidences, counts, asked)
    kept = min(asked, base - 1)
    assert pairs["sample_id"].to_list() == [i for i in range(images) for _ in range(kept)]
    assert pairs["rank"].to_list() == list(range(1, kept + 1)) * images
    assert pairs.filter(pl.col("class_id") == pl.col("pseudo_label_id")).is_empty()
    assert schema_problem(PAIRS, pairs) is None
    probabilities, table = confidences.numpy(), counts.numpy()
    for image in range(images):
        own = pairs.filter(pl.col("sample_id") == image)
        # Independently: plain Python, eq. 6 and 7 spelled out.
        pseudo = min(range(base), key=lambda c: (-probabilities[image, c], c))
        total = table[pseudo].sum()
        scores = {
            c: (1 + (table[pseudo, c] / total if total else 0)) * probabilities[image, c]
            for c in range(base)
            if c != pseudo
        }
        assert own["pseudo_label_id"].to_list() == [pseudo] * kept
        assert own["class_id"].to_list() == sorted(scores, key=lambda c: (-scores[c], c))[:kept]
        np.testing.assert_allclose(
            own["score"].to_numpy(), sorted(scores.values(), reverse=True)[:kept], rtol=1e-12
        )
        assert own["count"].to_list() == [table[pseudo, c] for c in own["class_id"]]
        # A weight is between 1 and 2.
        ratio = own["score"].to_numpy() / own["confidence"].to_numpy()
        assert bool(((ratio >= 1 - 1e-12) & (ratio <= 2 + 1e-12)).all())


def test_class_pairs_by_hand() -> None:
    dataset = toy_dataset([0, 0, 0], 6)
    # Two images are taken for c0, one for c1, none for c2.
    confidences = torch.tensor(
        [[0.5, 0.1, 0.4], [0.6, 0.3, 0.1], [0.1, 0.7, 0.2]], dtype=torch.float64
    )
    counts = torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    texts = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
    pairs = class_pairs(dataset, confidences, counts, texts, 2)
    columns = ("class_name", "rank", "paired_class", "count", "source")
    assert pairs.select(columns).rows() == [
        ("c0", 1, "c1", 1, "score"),  # mean of 0.1 x 2 and 0.3 x 2
        ("c0", 2, "c2", 0, "score"),  # mean of 0.4 and 0.1
        ("c1", 1, "c2", 0, "score"),
        ("c1", 2, "c0", 0, "score"),
        ("c2", 1, "c1", 0, "text_similarity"),  # 0.96
        ("c2", 2, "c0", 0, "text_similarity"),  # 0.6
    ]
    np.testing.assert_allclose(
        pairs["score"].to_numpy(), [0.4, 0.25, 0.2, 0.1, 0.96, 0.6], rtol=1e-6
    )
    assert pairs["paired_class_id"].to_list() == [1, 2, 2, 0, 1, 0]
    assert schema_problem(CLASS_PAIRS, pairs) is None


@given(st.integers(0, 6), st.integers(1, 7), st.integers(1, 8), st.integers(0, 9999))
def test_class_pairs_of_any_predictions(images: int, base: int, asked: int, seed: int) -> None:
    confidences, counts = random_case(images, base, seed, coarse=False)
    dataset = toy_dataset([0] * images, 2 * base)
    texts = torch.nn.functional.normalize(
        torch.randn(base, 5, generator=torch.Generator().manual_seed(seed)), dim=1
    )
    pairs = class_pairs(dataset, confidences, counts, texts, asked)
    assert pairs.height == base * min(asked, base - 1)
    assert schema_problem(CLASS_PAIRS, pairs) is None
    assert pairs.filter(pl.col("class_id") == pl.col("paired_class_id")).is_empty()
    # Nothing novel is described.
    names = set(dataset.classes.filter(pl.col("group") == "base")["class_name"])
    assert set(pairs["class_name"]) | set(pairs["paired_class"]) <= names
    seen = set(pseudo_labels(confidences).tolist())
    by_source = pairs.group_by("source").agg(pl.col("class_id").unique())
    for source, class_ids in by_source.iter_rows():
        assert set(class_ids) == (seen if source == "score" else set(range(base)) - seen)
    for _, rows in pairs.group_by("class_id"):
        assert rows["score"].is_sorted(descending=True)
        assert rows["paired_class_id"].n_unique() == rows.height


def test_without_statistics_confidence_ranks_and_the_counts_are_still_told() -> None:
    dataset = toy_dataset([0], 5)
    confidences = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)
    counts = torch.tensor([[0, 9, 1], [0, 0, 0], [0, 0, 0]])
    pairs = mine_pairs(dataset, pl.Series([0]), confidences, counts, 2, use_statistics=False)
    assert pairs["class_id"].to_list() == [2, 1]
    assert pairs["score"].to_list() == pairs["confidence"].to_list()
    assert pairs["count"].to_list() == [1, 9]


def test_pairs_can_be_mined_for_the_true_class() -> None:
    dataset = toy_dataset([1], 6)
    # The image of class 1 is taken for class 0.
    confidences = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)
    counts = torch.tensor([[0, 0, 9], [4, 0, 0], [0, 0, 0]])
    label = torch.tensor([1])
    pairs = mine_pairs(dataset, pl.Series([0]), confidences, counts, 2, labels=label)
    assert pairs.select("pseudo_label_id", "class_id", "count").rows() == [(1, 0, 4), (1, 2, 0)]
    assert pairs["score"].to_list() == [pytest.approx(1.0), pytest.approx(0.3)]
    texts = torch.eye(3)
    by_class = class_pairs(dataset, confidences, counts, texts, 1, labels=label)
    assert by_class.filter(source="score")["class_id"].to_list() == [1]


def test_similarities_take_the_place_of_scores() -> None:
    dataset = toy_dataset([0, 0], 8)
    confidences = torch.tensor([[0.4, 0.3, 0.2, 0.1]] * 2, dtype=torch.float64)
    inf = float("inf")
    similarities = torch.tensor([[0.9, 0.1, 0.5, -inf], [0.9, -inf, -inf, -inf]])
    pairs = mine_pairs(
        dataset,
        dataset.samples["sample_id"],
        confidences,
        torch.zeros(4, 4, dtype=torch.long),
        3,
        similarities=similarities.double(),
    )
    # Class 0 is the pseudo-label; classes that the bank holds no image of make no pair.
    columns = ("sample_id", "rank", "class_id", "confidence")
    assert pairs.select(columns).rows() == [(0, 1, 2, 0.2), (0, 2, 1, 0.3)]
    assert pairs["score"].to_list() == [pytest.approx(0.5), pytest.approx(0.1)]
    assert schema_problem(PAIRS, pairs) is None


def test_pairs_predicted_from_names() -> None:
    # Cosines: A-B 0.8, A-C 0.6, B-C 0; A has mined pairs.
    texts = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, -0.8]])
    found = predicted_pairs(["A", "B", "C"], texts, 1, mined=[0])
    assert schema_problem(CLASS_PAIRS, found) is None
    assert found.select("class_name", "paired_class", "rank", "count", "source").rows() == [
        ("B", "A", 1, 0, "text_similarity"),
        ("C", "A", 1, 0, "text_similarity"),
    ]
    assert found["score"].to_list() == pytest.approx([0.8, 0.6])
    more = predicted_pairs(["A", "B", "C"], texts, 9)
    assert more["paired_class"].to_list() == ["B", "C", "A", "C", "A", "B"]
    assert predicted_pairs(["A", "B", "C"], texts, 0).is_empty()
