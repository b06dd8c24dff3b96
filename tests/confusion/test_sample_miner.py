"""SAM: the representative of a pair (eq. 8) and the order in which candidates are looked for."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capt_core.artifacts.schemas import REPRESENTATIVES
from capt_core.artifacts.tables import schema_problem
from capt_core.confusion.sample_miner import (
    SOURCES,
    BankCells,
    mine_representatives,
    most_similar,
)
from capt_core.data.dataset import Dataset
from tests.toys import toy_dataset

Cell = tuple[int, int]


def test_the_representative_by_hand() -> None:
    anchor = torch.tensor([0.6, 0.8])
    candidates = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-0.6, -0.8]])
    index, cosine = most_similar(anchor, candidates)
    assert index == 1
    assert cosine == pytest.approx(0.96)


def test_a_negative_cosine_can_be_the_highest() -> None:
    index, cosine = most_similar(torch.tensor([1.0, 0.0]), torch.tensor([[-1.0, 0.0], [-0.6, 0.8]]))
    assert index == 1
    assert cosine == pytest.approx(-0.6)


def test_ties_go_to_the_first_candidate() -> None:
    anchor = torch.tensor([1.0, 0.0])
    assert most_similar(anchor, torch.tensor([[0.6, 0.8]] * 40))[0] == 0
    assert most_similar(anchor, torch.tensor([[0.0, 1.0], [0.6, 0.8], [0.6, -0.8]]))[0] == 1


def bank_of(cells: dict[Cell, list[int]]) -> pl.DataFrame:
    rows = [(true, taken, s) for (true, taken), samples in cells.items() for s in samples]
    return pl.DataFrame(
        rows,
        schema={"true_class_id": pl.Int64, "predicted_class_id": pl.Int64, "sample_id": pl.Int64},
        orient="row",
    )


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        # The anchor, sample 9, was taken for class 0; the pair is class 1.
        ({(1, 0): [3, 4], (1, 2): [5], (0, 1): [6]}, ([3, 4], "confused_with_anchor")),
        ({(1, 2): [5], (1, 3): [2], (0, 1): [6]}, ([2, 5], "confused_class")),
        ({(0, 1): [6], (0, 2): [7], (2, 1): [8]}, ([6], "anchor_class_confused")),
        ({(0, 2): [7], (2, 1): [8], (2, 0): [1]}, ([], "")),
        ({}, ([], "")),
        # The anchor itself never counts, in any of the three.
        ({(1, 0): [9, 4], (0, 1): [6]}, ([4], "confused_with_anchor")),
        ({(1, 0): [9], (1, 2): [5]}, ([5], "confused_class")),
        ({(1, 0): [9], (0, 1): [6]}, ([6], "anchor_class_confused")),
        ({(0, 1): [9]}, ([], "")),
    ],
)
def test_candidates_are_looked_for_in_order(
    cells: dict[Cell, list[int]], expected: tuple[list[int], str]
) -> None:
    bank = BankCells.from_bank(bank_of(cells))
    assert bank.candidates(anchor_id=9, pseudo_label=0, paired_class=1) == expected


def pairs_of(*rows: tuple[int, int, int, int]) -> pl.DataFrame:
    columns = ("sample_id", "pseudo_label_id", "rank", "class_id")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.Int64), orient="row")


def mine(
    dataset: Dataset,
    pairs: pl.DataFrame,
    cells: dict[Cell, list[int]],
    features: torch.Tensor,
    fallback: str = "random_train",
    seed: int = 0,
) -> pl.DataFrame:
    return mine_representatives(
        dataset, pairs, bank_of(cells), dataset.samples, features, fallback, seed
    )


def test_representatives_by_hand() -> None:
    dataset = toy_dataset([0, 0, 1, 1, 2, 2], 5)
    features = torch.tensor([[1.0, 0.0], [0, 1], [0.8, 0.6], [0.6, 0.8], [0, -1], [-1, 0]])
    cells = {(1, 0): [2, 3], (2, 1): [4], (0, 1): [0]}
    pairs = pairs_of((0, 0, 1, 1), (0, 0, 2, 2), (1, 0, 1, 1), (4, 2, 1, 1))
    found = mine(dataset, pairs, cells, features)
    by_name = found.select("sample_id", "rank", "class_name", "representative_id", "source").rows()
    assert by_name == [
        (0, 1, "c1", 2, "confused_with_anchor"),
        (0, 2, "c2", 4, "confused_class"),
        (1, 1, "c1", 3, "confused_with_anchor"),
        (4, 1, "c1", 2, "confused_class"),
    ]
    assert found["representative_path"].to_list() == [
        "c1/2.png",
        "c2/4.png",
        "c1/3.png",
        "c1/2.png",
    ]
    assert found["cosine"].to_list() == [pytest.approx(value) for value in (0.8, 0.0, 0.8, -0.6)]
    assert schema_problem(REPRESENTATIVES, found) is None


def test_an_empty_bank_falls_back_to_training_images_of_the_pairs_class() -> None:
    dataset = toy_dataset([0, 0, 1, 1, 1], 5)
    features = torch.eye(5)
    found = mine(dataset, pairs_of((0, 0, 1, 1), (1, 0, 1, 1)), {}, features)
    assert found["source"].to_list() == ["random_train"] * 2
    assert set(found["representative_id"]) <= {2, 3, 4}


def test_an_empty_bank_may_be_skipped() -> None:
    dataset = toy_dataset([0, 1], 5)
    found = mine(dataset, pairs_of((0, 0, 1, 1)), {}, torch.eye(2), "skip")
    assert found.is_empty()
    assert schema_problem(REPRESENTATIVES, found) is None


def test_a_class_without_any_other_image_has_no_representative() -> None:
    # The anchor is the only image of class 1, and the pair is class 1: it was taken for class 0.
    dataset = toy_dataset([0, 1], 5)
    found = mine(dataset, pairs_of((1, 0, 1, 1), (0, 0, 1, 1)), {}, torch.eye(2))
    assert found.select("sample_id", "representative_id").rows() == [(0, 1)]


def test_random_draws_repeat_under_a_seed() -> None:
    dataset = toy_dataset([0] + [1] * 50, 5)
    pairs = pairs_of(*((0, 0, rank, 1) for rank in range(1, 6)))
    features = torch.nn.functional.normalize(torch.randn(51, 4), dim=1)
    one, again = (mine(dataset, pairs, {}, features, seed=1) for _ in range(2))
    assert one.equals(again)
    assert not one.equals(mine(dataset, pairs, {}, features, seed=2))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], dict[Cell, list[int]], list[tuple[int, ...]]]:
    """Classes of some samples, bank cells among them, and pairs."""
    class_of = draw(st.lists(st.integers(0, 3), min_size=1, max_size=10))
    cells: dict[Cell, list[int]] = {}
    for sample, true in enumerate(class_of):
        taken = draw(st.integers(0, 3))
        if taken != true:
            cells.setdefault((true, taken), []).append(sample)
    pairs = draw(
        st.lists(
            st.tuples(st.integers(0, len(class_of) - 1), st.integers(0, 3), st.integers(1, 3)),
            max_size=8,
            unique_by=lambda pair: (pair[0], pair[2]),
        )
    )
    return class_of, cells, [(s, g, r, (g + r) % 4) for s, g, r in pairs]


@given(cases(), st.sampled_from(["random_train", "skip"]), st.integers(0, 99))
def test_representatives_of_any_bank(
    case: tuple[list[int], dict[Cell, list[int]], list[tuple[int, ...]]], fallback: str, seed: int
) -> None:
    class_of, cells, pairs = case
    dataset = toy_dataset(class_of, 8)
    features = torch.nn.functional.normalize(
        torch.randn(len(class_of), 3, generator=torch.Generator().manual_seed(seed)), dim=1
    )
    frame = pl.DataFrame(
        pairs,
        schema=dict.fromkeys(("sample_id", "pseudo_label_id", "rank", "class_id"), pl.Int64),
        orient="row",
    )
    found = mine(dataset, frame, cells, features, fallback, seed)
    assert schema_problem(REPRESENTATIVES, found) is None
    chosen = {(row["sample_id"], row["rank"]): row for row in found.iter_rows(named=True)}
    for anchor, pseudo, rank, paired in pairs:
        others = [s for s in range(len(class_of)) if s != anchor]
        row_of_paired = {s for (g, _), samples in cells.items() if g == paired for s in samples}
        options = [
            (set(cells.get((paired, pseudo), [])), SOURCES[0]),
            (row_of_paired, SOURCES[1]),
            (set(cells.get((pseudo, paired), [])), SOURCES[2]),
        ]
        if fallback == "random_train":
            options.append(({s for s in others if class_of[s] == paired}, SOURCES[3]))
        options = [(samples & set(others), source) for samples, source in options]
        expected = next(((samples, source) for samples, source in options if samples), None)
        row = chosen.pop((anchor, rank), None)
        if expected is None:
            assert row is None
            continue
        assert row is not None
        samples, source = expected
        assert row["source"] == source
        assert row["representative_id"] in samples
        assert row["class_id"] == paired
        cosine = float(features[row["representative_id"]] @ features[anchor])
        assert row["cosine"] == pytest.approx(cosine, abs=1e-6)
        if source != SOURCES[3]:
            best = max(float(features[s] @ features[anchor]) for s in samples)
            assert cosine == pytest.approx(best, abs=1e-6)
    assert not chosen
