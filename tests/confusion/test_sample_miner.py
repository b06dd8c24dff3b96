"""SAM: the representative of a pair (eq. 8) and the order in which candidates are looked for."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capt_core.artifacts.features import HeldFeatures
from capt_core.artifacts.schemas import REPRESENTATIVES
from capt_core.artifacts.tables import schema_problem
from capt_core.confusion import retrieval, sample_miner
from capt_core.confusion.bank_cells import BankCells
from capt_core.confusion.retrieval import most_similar
from capt_core.confusion.sample_miner import SOURCES, WholeBank, mine_representatives
from capt_core.confusion.training_cells import confusion_zones
from capt_core.data.dataset import Dataset
from capt_core.params import MineSamples
from tests.toys import toy_dataset

Cell = tuple[int, int]
Pair = tuple[int, int, int, int]
Case = tuple[list[int], dict[Cell, list[int]], list[Pair]]


def test_the_representative_by_hand() -> None:
    anchor = torch.tensor([0.6, 0.8])
    candidates = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-0.6, -0.8]])
    first, second = most_similar(anchor, candidates, 2)
    index, cosine = first
    assert (index, second[0]) == (1, 0)
    assert second[1] == pytest.approx(0.6)
    assert cosine == pytest.approx(0.96)
    # A negative cosine can be the highest.
    candidates = torch.tensor([[-1.0, 0.0], [-0.6, 0.8]])
    assert most_similar(torch.tensor([1.0, 0.0]), candidates)[0] == pytest.approx((1, -0.6))


def test_ties_go_to_the_first_candidate() -> None:
    anchor = torch.tensor([1.0, 0.0])
    even = most_similar(anchor, torch.tensor([[0.6, 0.8]] * 40), 40)
    assert [index for index, _ in even] == list(range(40))
    assert most_similar(anchor, torch.tensor([[0.0, 1.0], [0.6, 0.8], [0.6, -0.8]]))[0][0] == 1


def bank_of(cells: dict[Cell, list[int]]) -> pl.DataFrame:
    rows = [(true, taken, s) for (true, taken), samples in cells.items() for s in samples]
    return pl.DataFrame(
        rows,
        schema={"true_class_id": pl.Int64, "predicted_class_id": pl.Int64, "sample_id": pl.Int64},
        orient="row",
    )


def test_candidates_by_source_the_best_first() -> None:
    cells = {(1, 0): [3, 4], (1, 2): [5, 3], (0, 1): [6], (0, 2): [7], (2, 0): [8]}

    def candidates(cells: dict[Cell, list[int]]) -> list[list[int]]:
        bank = BankCells.from_bank(bank_of(cells), classes=3)
        return [bank.candidates(0, 1, source).tolist() for source in range(3)]

    # Of class 1 and taken for 0; any of class 1; of class 0 and taken for 1.
    assert candidates(cells) == [[3, 4], [3, 4, 5], [6]]
    assert candidates({}) == [[], [], []]


def pairs_of(*rows: Pair) -> pl.DataFrame:
    columns = ("sample_id", "pseudo_label_id", "rank", "class_id")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.Int64), orient="row")


def mine(
    dataset: Dataset,
    pairs: pl.DataFrame,
    cells: dict[Cell, list[int]],
    features: torch.Tensor,
    seed: int = 0,
    whole_bank: bool = False,
    **settings: object,
) -> pl.DataFrame:
    section = MineSamples.model_validate(settings)
    bank = bank_of(cells)
    held = HeldFeatures(features)
    return mine_representatives(
        dataset, pairs, bank, dataset.samples, held, section, seed, whole_bank
    ).table()


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


def test_images_right_or_wrong_by_hand() -> None:
    dataset = toy_dataset([0, 1, 1, 1], 5)
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    # Image 0 is taken for class 0 and confused with 1. Of class 1, image 1 lies between the same
    # two, 2 between 1 and 2, and 3 is an error of another kind.
    pairs = pairs_of((0, 0, 1, 1), (1, 1, 1, 0), (2, 1, 1, 2), (3, 2, 1, 1)).head(4)
    assert confusion_zones(pairs) == {0: {0, 1}, 1: {0, 1}, 2: {1, 2}, 3: {1, 2}}
    bank = {(1, 2): [3]}

    def first(choice: str) -> list[tuple[int, str]]:
        found = mine(dataset, pairs, bank, features, choice=choice).filter(sample_id=0)
        return found.select("representative_id", "source").rows()

    assert first("representative") == [(3, "confused_class")]
    assert first("nearest") == [(2, "nearest")]
    assert first("zone") == [(1, "zone")]
    assert first("none") == []
    # Where the zone is empty, another image of the class is drawn.
    outside = pairs.filter(pl.col("sample_id") != 1)
    assert mine(dataset, outside, bank, features, choice="zone")["source"][0] == "random_train"


def test_the_share_of_errors_counts_rows() -> None:
    dataset = toy_dataset([0, 1, 1], 5)
    features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
    settings = MineSamples(choice="nearest", representatives=2)
    pairs, bank = pairs_of((0, 0, 1, 1)), bank_of({(1, 0): [2]})
    train = dataset.samples.select("sample_id", "class_id")
    found = mine_representatives(
        dataset, pairs, bank, train, HeldFeatures(features), settings, seed=1
    )
    assert found.error_share(bank) == 0.5
    none = settings.model_copy(update={"choice": "none"})
    nothing = mine_representatives(
        dataset, pairs, bank, train, HeldFeatures(features), none, seed=1
    )
    assert nothing.error_share(bank) is None


def test_random_draws_repeat_under_a_seed() -> None:
    dataset = toy_dataset([0] + [1] * 50, 5)
    pairs = pairs_of(*((0, 0, rank, 1) for rank in range(1, 6)))
    features = torch.nn.functional.normalize(torch.randn(51, 4), dim=1)
    one, again = (mine(dataset, pairs, {}, features, seed=1) for _ in range(2))
    assert one.equals(again)
    assert not one.equals(mine(dataset, pairs, {}, features, seed=2))


@st.composite
def cases(draw: st.DrawFn) -> Case:
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


FEATURES = torch.tensor([[1.0, 0.0], [0.96, 0.28], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])


def test_several_representatives_by_hand() -> None:
    dataset = toy_dataset([0, 1, 1, 1, 0, 1], 5)
    # The anchor, sample 0, was taken for class 0; the pair is class 1.
    cells = {(1, 0): [3], (1, 2): [1, 2], (0, 1): [0, 4]}
    found = mine(dataset, pairs_of((0, 0, 1, 1)), cells, FEATURES, representatives=5)
    assert found.select("order", "representative_id", "source").rows() == [
        (1, 3, "confused_with_anchor"),
        (2, 1, "confused_class"),  # cosines 0.96 and 0.8
        (3, 2, "confused_class"),
        (4, 4, "anchor_class_confused"),
        (5, 5, "random_train"),  # what is left of class 1
    ]
    assert found["cosine"].to_list() == [pytest.approx(v) for v in (0.6, 0.96, 0.8, 0.0, -1.0)]
    assert schema_problem(REPRESENTATIVES, found) is None
    fewer = mine(
        dataset, pairs_of((0, 0, 1, 1)), cells, FEATURES, representatives=5, fallback="skip"
    )
    assert fewer.equals(found.head(4))


def test_similarities_to_the_whole_bank_by_hand() -> None:
    bank = bank_of({(1, 0): [3], (1, 2): [1], (0, 1): [0, 4]})
    whole = WholeBank(bank, HeldFeatures(FEATURES), [0, 1, 2])
    found = whole.similarities(pl.Series([0, 4]))
    inf = float("inf")
    # Anchor 0 against 4 (itself left out) and 1; anchor 4 against 0 and 3.
    expected = torch.tensor([[0.0, 0.96, -inf], [0.0, 0.8, -inf]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@given(
    cases(),
    st.sampled_from(["random_train", "skip"]),
    st.sampled_from(["representative", "random"]),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 99),
)
def test_representatives_of_any_bank(
    case: Case,
    fallback: str,
    choice: str,
    count: int,
    whole_bank: bool,
    seed: int,
) -> None:
    class_of, cells, pairs = case
    dataset = toy_dataset(class_of, 8)
    features = torch.nn.functional.normalize(
        torch.randn(len(class_of), 3, generator=torch.Generator().manual_seed(seed)), dim=1
    )
    settings = {"fallback": fallback, "choice": choice, "representatives": count}
    found = mine(dataset, pairs_of(*pairs), cells, features, seed, whole_bank, **settings)
    assert schema_problem(REPRESENTATIVES, found) is None
    assert (found["sample_id"] != found["representative_id"]).all()
    assert found["cosine"].is_between(-1 - 1e-6, 1 + 1e-6).all()

    def cosine(one: int, other: int) -> float:
        return float(features[one] @ features[other])

    rows_of: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in found.iter_rows(named=True):
        rows_of.setdefault((row["sample_id"], row["rank"]), []).append(row)
    for anchor, pseudo, rank, paired in pairs:
        # Independently: walk through the sources in plain Python.
        row_of_paired = {s for (g, _), samples in cells.items() if g == paired for s in samples}
        sources = [
            (SOURCES[0], set(cells.get((paired, pseudo), []))),
            (SOURCES[1], row_of_paired),
            (SOURCES[2], set(cells.get((pseudo, paired), []))),
        ]
        sources = sources[1:2] if whole_bank else sources
        expected: list[tuple[int, str]] = []
        for source, samples in [] if choice == "random" else sources:
            left = samples - {anchor} - {sample for sample, _ in expected}
            best = sorted(left, key=lambda s: -cosine(anchor, s))[: count - len(expected)]
            expected += [(sample, source) for sample in best]
        rows = rows_of.pop((anchor, rank), [])
        chosen = [(row["representative_id"], row["source"]) for row in rows]
        assert chosen[: len(expected)] == expected
        drawn = {sample for sample, source in chosen[len(expected) :] if source == SOURCES[3]}
        assert len(drawn) == len(chosen) - len(expected)
        pool = {s for s, c in enumerate(class_of) if c == paired and s != anchor}
        pool -= {sample for sample, _ in expected}
        wanted = choice == "random" or fallback == "random_train"
        assert len(drawn) == (min(count - len(expected), len(pool)) if wanted else 0)
        assert drawn <= pool
        assert [row["order"] for row in rows] == list(range(1, len(rows) + 1))
        for row in rows:
            assert row["class_id"] == paired
            assert row["cosine"] == pytest.approx(
                cosine(anchor, row["representative_id"]), abs=1e-6
            )
    assert not rows_of


@given(cases(), st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_cells_of_many_pairs_give_what_single_pairs_give(
    case: Case, count: int, whole_bank: bool, seed: int
) -> None:
    class_of, cells, pairs = case
    dataset = toy_dataset(class_of, 8)
    features = torch.nn.functional.normalize(
        torch.randn(len(class_of), 3, generator=torch.Generator().manual_seed(seed)), dim=1
    )

    def found() -> pl.DataFrame:
        return mine(
            dataset, pairs_of(*pairs), cells, features, seed, whole_bank, representatives=count
        )

    single = found()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_miner, "FEW_PAIRS", -1)
        # So little memory that cells are read one after the other and products cut in two.
        patch.setattr(retrieval, "_HELD", 0)
        patch.setattr(retrieval, "_ANCHORS", 2)
        many = found()
    assert many.drop("cosine").equals(single.drop("cosine"))
    torch.testing.assert_close(many["cosine"].to_torch(), single["cosine"].to_torch())
