"""What is kept of confidences gives the pairs that all confidences give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import LIKELY_CLASSES, MEAN_CONFIDENCES
from capt_core.artifacts.tables import schema_problem, write_table
from capt_core.confusion.likely import (
    RANKED,
    ConfidenceSums,
    DrawnConfidences,
    LikelyClasses,
    MeanConfidences,
    likely_classes,
    read_likely_classes,
    read_mean_confidences,
)
from capt_core.confusion.semantic_miner import PairMiner, pseudo_labels
from capt_core.errors import CaptError
from capt_core.evaluation.predictions import ranked_classes
from capt_core.params import MOST_PAIRS
from tests.toys import toy_dataset


def peaked(images: int, classes: int, seed: int, coarse: bool) -> torch.Tensor:
    """Confidences of which few matter; coarse ones are full of ties."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(images, classes, generator=generator)
    return (logits.round() if coarse else logits).softmax(dim=1)


def test_likely_classes_by_hand() -> None:
    # Twelve of 0.06 and more; 0.03 is half of the eleventh highest, 0.029 less than that.
    first = [0.1] * MOST_PAIRS + [0.06, 0.03, 0.029, 0.0]
    # All ties: any class may be among the pairs.
    rows = torch.tensor([first, [1 / 14] * 14])
    ranked = ranked_classes(rows, 14)
    found = likely_classes(pl.Series([7, 9]), rows, ranked, range(100, 114))
    assert schema_problem(LIKELY_CLASSES, found) is None
    assert found["sample_id"].to_list() == [7, 9]
    assert found["class_ids"].to_list() == [list(range(100, 112)), list(range(100, 114))]
    assert found["confidences"][0].to_list() == rows[0, :12].tolist()


@given(
    *(st.integers(1, 6), st.integers(2, 40), st.integers(1, MOST_PAIRS)),
    *(st.integers(0, 9999), st.booleans(), st.booleans()),
)
def test_likely_classes_give_the_pairs_of_all(
    images: int, base: int, asked: int, seed: int, coarse: bool, true_labels: bool
) -> None:
    confidences, dataset = peaked(images, base, seed, coarse), toy_dataset([0] * images, 2 * base)
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 3, (base, base), generator=generator).fill_diagonal_(0)
    counts[:, 2:] *= torch.rand(base, base - 2, generator=generator) < 0.1
    ids, class_ids = dataset.samples["sample_id"], dataset.class_ids("base")
    table = likely_classes(ids, confidences, ranked_classes(confidences, RANKED), class_ids)
    likely = LikelyClasses.of_table(table, class_ids)
    assert torch.equal(likely.most_likely(), pseudo_labels(confidences))
    labels = torch.randint(0, base, (images,), generator=generator)
    labels = labels if true_labels else likely.most_likely()
    miner = PairMiner(dataset, counts, asked)
    whole = miner.pairs(ids, labels, LikelyClasses.every(confidences))
    assert miner.pairs(ids, labels, likely).equals(whole)


def test_mean_confidences_by_hand() -> None:
    dataset, sums = toy_dataset([0] * 3, 6), ConfidenceSums(3)
    sums.add(torch.tensor([2, 2]), torch.tensor([[0.25, 0.0, 0.75], [0.0, 0.25, 0.75]]))
    sums.add(torch.tensor([0]), torch.tensor([[0.5, 0.25, 0.25]]))
    table = sums.means().table(dataset)
    assert schema_problem(MEAN_CONFIDENCES, table) is None
    assert table.rows() == [(0, "c0", 1, [0.5, 0.25, 0.25]), (2, "c2", 2, [0.125, 0.125, 0.75])]
    again = MeanConfidences.of_table(table, [0, 1, 2])
    assert again.images.tolist() == [1, 0, 2]
    assert again.values.tolist() == [[0.5, 0.25, 0.25], [0.0] * 3, [0.125, 0.125, 0.75]]


def test_no_image_has_no_means() -> None:
    table = ConfidenceSums(2).means().table(toy_dataset([0], 4))
    assert schema_problem(MEAN_CONFIDENCES, table) is None
    assert MeanConfidences.of_table(table, [0, 1]).images.tolist() == [0, 0]


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 9999))
def test_blocks_of_samples_give_what_all_give(images: int, block: int, seed: int) -> None:
    confidences, ids = peaked(images, 5, seed, coarse=False), pl.Series(range(images))
    drawn = torch.rand(images, generator=torch.Generator().manual_seed(seed)).numpy() < 0.7
    ranked, tables, found = ranked_classes(confidences, RANKED), list[pl.DataFrame](), []
    for rows in (images, block):
        sums, blocks = ConfidenceSums(5), list[pl.DataFrame]()
        kept = DrawnConfidences(drawn, range(5), sums, blocks.append)
        for start in range(0, images, rows):
            part = slice(start, start + rows)
            kept(ids[part], confidences[part], ranked[part])
        tables.append(pl.concat([LIKELY_CLASSES.frame(), *blocks]))
        found.append(sums.means())
    assert tables[0].equals(tables[1])
    assert tables[0]["sample_id"].to_list() == drawn.nonzero()[0].tolist()
    whole, parts = found
    assert torch.equal(parts.images, whole.images)
    assert int(whole.images.sum()) == drawn.sum()
    torch.testing.assert_close(parts.values, whole.values)
    taken = whole.images > 0
    torch.testing.assert_close(
        whole.values[taken].sum(dim=1), torch.ones(int(taken.sum())).double()
    )


ORIGIN = Provenance("toys")
IMAGES = pl.Series([4, 1, 2])


def written(folder: Path) -> tuple[Path, Path]:
    """Tables of images 1, 2 and 4 among the classes 10, 11 and 12; two are taken for 11."""
    confidences = torch.tensor([[0.25, 0.5, 0.25], [0.0, 0.75, 0.25], [0.5, 0.25, 0.25]])
    ranked, sums = ranked_classes(confidences, RANKED), ConfidenceSums(3)
    likely = likely_classes(IMAGES.sort(), confidences, ranked, [10, 11, 12])
    sums.add(ranked[:, 0], confidences)
    means = sums.means().table(toy_dataset([0], 6)).with_columns(pl.col("class_id") + 10)
    write_table(LIKELY_CLASSES, likely, folder / "likely.parquet", ORIGIN)
    write_table(MEAN_CONFIDENCES, means, folder / "means.parquet", ORIGIN)
    return folder / "likely.parquet", folder / "means.parquet"


def test_what_is_kept_is_read_in_the_order_of_the_draw(tmp_path: Path) -> None:
    likely, means = written(tmp_path)
    (ids, found), *_ = read_likely_classes(likely, ORIGIN, IMAGES, [10, 11, 12])
    assert ids.to_list() == [4, 1, 2]
    assert found.most_likely().tolist() == [0, 1, 1]
    kept = read_mean_confidences(means, ORIGIN, [10, 11, 12], np.array([1, 2, 0]))
    assert kept.values.tolist() == [[0.5, 0.25, 0.25], [0.125, 0.625, 0.25], [0.0] * 3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (pl.col("sample_id") + 1, "other images than the few-shot list"),
        (pl.col("class_ids").list.head(0), "an image without classes"),
        (pl.col("confidences").list.head(1), "an image without classes or their confidences"),
        (pl.col("class_ids").list.eval(pl.element() + 1), "a class that is not a base class"),
        (pl.col("confidences").list.eval(pl.element() * float("nan")), "a value outside of 0 to 1"),
    ],
)
def test_likely_classes_of_other_images_or_classes_are_refused(
    tmp_path: Path, change: pl.Expr, said: str
) -> None:
    path, _ = written(tmp_path)
    frame = pl.read_parquet(path)
    write_table(LIKELY_CLASSES, frame.with_columns(change), path, ORIGIN)
    with pytest.raises(CaptError, match=f"{said}.*infer-teacher"):
        list(read_likely_classes(path, ORIGIN, IMAGES, [10, 11, 12]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (pl.col("images") + 1, "counts other images"),
        (pl.col("class_id") + 2, "a class that is not a base class"),
        (pl.col("confidences").list.head(2), "other than one confidence for each base class"),
    ],
)
def test_means_of_other_images_or_classes_are_refused(
    tmp_path: Path, change: pl.Expr, said: str
) -> None:
    _, path = written(tmp_path)
    write_table(MEAN_CONFIDENCES, pl.read_parquet(path).with_columns(change), path, ORIGIN)
    with pytest.raises(CaptError, match=f"{said}.*infer-teacher"):
        read_mean_confidences(path, ORIGIN, [10, 11, 12], np.array([1, 2, 0]))
