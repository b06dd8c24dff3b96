"""Few-shot sampling against lists drawn by the field's own code (method facts 8.1, 8.3, 8.4)."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt_core.data.dataset import Dataset
from capt_core.data.fewshot import draw_fewshot
from capt_core.data.preparation import draw_list
from capt_core.data.readers.split_json import read_split_json
from capt_core.data.registry import dataset_spec
from capt_core.data.splits import Rejects

Named = tuple[str, int]


def label_of(item: Named) -> int:
    return item[1]


def parse(text: str) -> list[Named]:
    pairs = (entry.split(":") for entry in text.split())
    return [(name, int(label)) for name, label in pairs]


def names(items: list[Named]) -> str:
    return " ".join(name for name, _ in items)


TRAIN = parse(
    "b0:1 a0:0 b1:1 c0:2 a1:0 a2:0 b2:1 c1:2 d0:3 d1:3 a3:0 b3:1 c2:2 c3:2 e0:4 e1:4 e2:4 a4:0 "
    "b4:1 c4:2"
)
VAL = parse(
    "va0:0 vb0:1 vc0:2 vd0:3 ve0:4 va1:0 vb1:1 vc1:2 vd1:3 ve1:4 va2:0 vb2:1 vc2:2 vd2:3 ve2:4"
)


@pytest.mark.parametrize(
    ("seed", "train", "val"),
    [
        (1, "b1 b0 a2 a0 c3 c4 d1 d0 e0 e2", "va1 va0 vb1 vb2 vc2 vc0 vd2 vd1 ve1 ve0"),
        (2, "b0 b4 a0 a2 c1 c2 d1 d0 e2 e0", "va2 va0 vb1 vb2 vc2 vc1 vd2 vd1 ve2 ve1"),
        (3, "b1 b4 a2 a3 c4 c0 d0 d1 e1 e0", "va0 va1 vb2 vb1 vc1 vc0 vd0 vd2 ve2 ve1"),
    ],
)
def test_two_shots_of_the_toy_split(seed: int, train: str, val: str) -> None:
    drawn = draw_fewshot(TRAIN, VAL, label_of, 2, seed)
    assert (names(drawn[0]), names(drawn[1])) == (train, val)


@pytest.mark.parametrize(
    ("seed", "train"),
    [
        (1, "b1 b0 b4 b3 a3 a4 a1 a2 c1 c0 c4 c3 d0 d1 e0 e1 e2"),
        (2, "b0 b4 b3 b1 a1 a2 a4 a0 c4 c0 c2 c3 d0 d1 e0 e1 e2"),
        (3, "b1 b4 b3 b2 a4 a0 a2 a3 c3 c2 c4 c0 d0 d1 e0 e1 e2"),
    ],
)
def test_four_shots_of_the_toy_split_take_short_classes_whole(seed: int, train: str) -> None:
    drawn, val = draw_fewshot(TRAIN, VAL, label_of, 4, seed)
    assert names(drawn) == train
    assert val == sorted(VAL, key=label_of)  # all 15, grouped by label, in file order


def test_no_shots_take_everything_as_it_is() -> None:
    assert draw_fewshot(TRAIN, VAL, label_of, 0, 1) == (TRAIN, VAL)


labels = st.lists(st.integers(0, 6), max_size=60)


def items(name: str, chosen: list[int]) -> list[Named]:
    return [(f"{name}{index}", label) for index, label in enumerate(chosen)]


@given(labels, labels, st.integers(1, 12), st.integers(0, 1000))
def test_validation_continues_the_generator_of_training(
    train: list[int], val: list[int], shots: int, seed: int
) -> None:
    generator = random.Random(seed)
    expected: list[list[Named]] = []
    for source, limit in ((items("t", train), shots), (items("v", val), min(shots, 4))):
        by_label: dict[int, list[Named]] = {}
        for item in source:
            by_label.setdefault(label_of(item), []).append(item)
        taken: list[Named] = []
        for members in by_label.values():
            taken += generator.sample(members, limit) if len(members) >= limit else members
        expected.append(taken)
    drawn = draw_fewshot(items("t", train), items("v", val), label_of, shots, seed)
    assert list(drawn) == expected


@pytest.mark.parametrize(
    ("name", "count", "published"),
    [
        ("caltech101", 13800, "3cbebd1e5046"),
        ("dtd", 6486, "f2df83dbe240"),
        ("eurosat", 1380, "9f38813d5d5e"),
        ("flowers102", 14076, "b8ae0b8fab57"),
        ("oxford_pets", 5106, "275d5bdf58b8"),
        ("stanford_cars", 27048, "bc5f04b306f1"),
        ("ucf101", 13938, "70d02bcde7b8"),
    ],
)
def test_the_published_lists_of_seven_benchmarks(
    shared: Path, name: str, count: int, published: str
) -> None:
    # Digests of all lists that cross-modal adaptation (Lin et al., 2023) published for 1 to 16
    # shots and seeds 1 to 3, train before val, one path a line.
    spec = dataset_spec(name)
    split = read_split_json(shared / "data" / "splits" / str(spec.split), Rejects(False))
    samples = split.samples.with_row_index("sample_id").cast({"sample_id": pl.Int64})
    dataset = Dataset(name, samples, pl.DataFrame(), "")
    found, total = hashlib.sha256(), 0
    for shots in (1, 2, 4, 8, 16):
        for seed in (1, 2, 3):
            drawn = draw_list(dataset, shots, seed)
            assert drawn["split"].unique(maintain_order=True).to_list() == ["train", "val"]
            total += len(drawn)
            found.update("".join(f"{path}\n" for path in drawn["path"]).encode())
    assert (total, found.hexdigest()[:12]) == (count, published)
