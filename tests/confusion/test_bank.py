"""The Confusion Bank and its counts, by hand and as invariants of any predictions."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from hypothesis import given
from hypothesis import strategies as st

from capt_core.artifacts.schemas import CONFUSION_BANK, CONFUSION_STATISTICS, PREDICTIONS
from capt_core.artifacts.tables import schema_problem
from capt_core.confusion.bank import (
    confusion_bank,
    confusion_statistics,
    count_matrix,
    training_predictions,
)
from capt_core.data.dataset import Dataset
from capt_core.evaluation.predictions import Scorers, classified
from tests.toys import toy_dataset

CLASSES = 6  # base: c0, c1, c2; novel: c3, c4, c5
SCORERS: Scorers = {
    "base": lambda features: 2 * features[:, :3],
    "novel": lambda features: 2 * features[:, 3:],
}


def one_hot_predictions(
    dataset: Dataset, predicted: list[int], top_classes: int = 2
) -> pl.DataFrame:
    """Predictions of images whose feature points at the class they are taken for."""
    features = torch.eye(CLASSES)[predicted]
    return classified(dataset, dataset.samples["sample_id"], features, SCORERS, top_classes)


# Nine samples: their classes, and what they are taken for.
TRUE = [1, 0, 0, 0, 2, 2, 1, 3, 4]
PREDICTED = [0, 1, 1, 0, 1, 2, 0, 4, 4]


def test_the_bank_by_hand() -> None:
    predictions = one_hot_predictions(toy_dataset(TRUE, CLASSES), PREDICTED)
    bank = confusion_bank(predictions)
    assert bank.select("true_class_id", "predicted_class_id", "sample_id").rows() == [
        (0, 1, 1),
        (0, 1, 2),
        (1, 0, 0),
        (1, 0, 6),
        (2, 1, 4),
        (3, 4, 7),
    ]
    assert bank["true_class"].to_list() == ["c0", "c0", "c1", "c1", "c2", "c3"]
    assert bank["predicted_class"].to_list() == ["c1", "c1", "c0", "c0", "c1", "c4"]
    assert bank["path"].to_list()[0] == "c0/1.png"
    assert schema_problem(CONFUSION_BANK, bank) is None


def test_the_statistics_by_hand() -> None:
    predictions = one_hot_predictions(toy_dataset(TRUE, CLASSES), PREDICTED)
    statistics = confusion_statistics(confusion_bank(predictions), predictions)
    columns = ("true_class", "predicted_class", "count", "rate")
    assert statistics.select(columns).rows() == [
        ("c0", "c1", 2, 2 / 3),
        ("c1", "c0", 2, 1.0),
        ("c2", "c1", 1, 0.5),
        ("c3", "c4", 1, 1.0),
    ]
    assert schema_problem(CONFUSION_STATISTICS, statistics) is None
    counts = count_matrix(statistics, CLASSES)
    expected = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    expected[0, 1] = expected[1, 0] = 2
    expected[2, 1] = expected[3, 4] = 1
    np.testing.assert_array_equal(counts, expected)
    assert counts.dtype == np.int64


def test_only_base_training_images_of_the_list_may_enter_the_bank() -> None:
    dataset = toy_dataset(TRUE, CLASSES)
    dataset = Dataset(
        dataset.name,
        dataset.samples.with_columns(
            split=pl.Series(["train"] * 4 + ["val", "test"] + ["train"] * 3)
        ),
        dataset.classes,
        dataset.fingerprint,
    )
    predictions = one_hot_predictions(dataset, PREDICTED)
    listed = pl.Series([8, 7, 6, 5, 4, 2, 0])
    assert training_predictions(dataset, predictions, listed)["sample_id"].to_list() == [0, 2, 6]


def test_each_group_is_classified_among_its_own_classes() -> None:
    dataset = toy_dataset([0, 3], CLASSES)
    # Both features point at a class of the other group; it cannot be chosen.
    features = torch.tensor([[0.0, 0.0, 0.6, 0.8, 0.0, 0.0], [0.8, 0.0, 0.0, 0.0, 0.6, 0.0]])
    table = classified(dataset, dataset.samples["sample_id"], features, SCORERS, 5)
    assert table["pseudo_label"].to_list() == ["c2", "c4"]
    assert table["top_class_ids"].to_list() == [[2, 0, 1], [4, 3, 5]]
    assert table["correct"].to_list() == [False, False]
    # Cosines 0.6, 0, 0 at scale 2.
    share = np.exp(1.2) / (np.exp(1.2) + 2)
    np.testing.assert_allclose(table["confidence"].to_numpy(), [share] * 2, rtol=1e-6)
    np.testing.assert_allclose(table["true_confidence"].to_numpy(), [(1 - share) / 2] * 2, 1e-6)
    np.testing.assert_allclose([sum(row) for row in table["top_confidences"]], 1.0, rtol=1e-6)
    assert schema_problem(PREDICTIONS, table) is None


def test_predictions_come_back_by_sample_whatever_the_order() -> None:
    dataset = toy_dataset(TRUE, CLASSES)
    texts = torch.eye(CLASSES)
    order = [8, 1, 4, 0, 6, 3, 7, 2, 5]
    features = texts[[PREDICTED[i] for i in order]]
    shuffled = classified(dataset, pl.Series(order), features, SCORERS, 2)
    assert shuffled.equals(one_hot_predictions(dataset, PREDICTED))


outcomes = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=40
)


@given(outcomes)
def test_counts_have_a_zero_diagonal_and_sum_to_the_errors(pairs: list[tuple[int, int]]) -> None:
    predictions = one_hot_predictions(
        toy_dataset([true for true, _ in pairs], CLASSES), [taken for _, taken in pairs]
    )
    bank = confusion_bank(predictions)
    statistics = confusion_statistics(bank, predictions)
    counts = count_matrix(statistics, CLASSES)
    errors = predictions.filter(pl.col("true_class_id") != pl.col("pseudo_label_id"))
    assert schema_problem(CONFUSION_BANK, bank) is None
    assert schema_problem(CONFUSION_STATISTICS, statistics) is None
    assert not counts.diagonal().any()
    assert counts.sum() == errors.height == bank.height
    assert set(bank["sample_id"]) == set(errors["sample_id"])
    # An independent count, cell by cell.
    expected = np.zeros_like(counts)
    for true, taken in predictions.select("true_class_id", "pseudo_label_id").iter_rows():
        expected[true, taken] += true != taken
    np.testing.assert_array_equal(counts, expected)
    assert statistics.filter((pl.col("rate") <= 0) | (pl.col("rate") > 1)).is_empty()
    # No pair crosses the groups, so nothing novel can enter the base half of the counts.
    base = toy_dataset([], CLASSES).class_ids("base")
    assert not counts[np.ix_(base, [3, 4, 5])].any()
    assert statistics["count"].is_sorted(descending=True)


@given(outcomes, st.integers(0, 999))
def test_the_bank_does_not_depend_on_the_order_of_predictions(
    pairs: list[tuple[int, int]], seed: int
) -> None:
    predictions = one_hot_predictions(
        toy_dataset([true for true, _ in pairs], CLASSES), [taken for _, taken in pairs]
    )
    shuffled = predictions.sample(fraction=1, shuffle=True, seed=seed)
    bank = confusion_bank(predictions)
    assert bank.equals(confusion_bank(shuffled))
    assert confusion_statistics(bank, predictions).equals(
        confusion_statistics(bank.reverse(), shuffled)
    )


def test_further_views_add_cells_and_never_count_an_image_twice() -> None:
    dataset = toy_dataset([0, 0, 1], CLASSES)
    test_view = one_hot_predictions(dataset, [1, 0, 1])
    views = [one_hot_predictions(dataset, [1, 2, 1]), one_hot_predictions(dataset, [2, 2, 0])]
    bank = confusion_bank(test_view, views)
    columns = ("true_class_id", "predicted_class_id", "sample_id", "view")
    assert bank.select(columns).rows() == [(0, 1, 0, 0), (0, 2, 0, 2), (0, 2, 1, 1), (1, 0, 2, 2)]
    assert schema_problem(CONFUSION_BANK, bank) is None
    counts = count_matrix(confusion_statistics(bank, test_view), CLASSES)
    assert counts[:2, :3].tolist() == [[0, 1, 2], [1, 0, 0]]


@given(st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=1, max_size=4))
def test_views_only_ever_add(taken: list[list[int]]) -> None:
    dataset = toy_dataset([0, 0, 1, 1, 2], CLASSES)
    frames = [one_hot_predictions(dataset, view) for view in taken]
    alone, bank = confusion_bank(frames[0]), confusion_bank(frames[0], frames[1:])
    assert bank.filter(view=0).equals(alone)
    cells = {
        (image, predicted)
        for view in taken
        for image, predicted in enumerate(view)
        if predicted != [0, 0, 1, 1, 2][image]
    }
    assert set(bank.select("sample_id", "predicted_class_id").rows()) == cells
    assert bank.height == len(cells)
    statistics = confusion_statistics(bank, frames[0])
    assert statistics["rate"].is_between(0, 1).all()
    assert statistics["count"].sum() == len(cells)
