"""Rows of a step: who is forwarded with which label and which alpha."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from capt_core.training.rows import Anchor, build_anchors, build_rows, epoch_batches

LABELS = [0, 0, 1, 2]


def test_anchors_keep_their_representatives_and_alphas() -> None:
    found = pl.DataFrame({"sample_id": [0, 0], "representative_id": [2, 3], "cosine": [0.81, 0.25]})
    without, anchor = build_anchors([1, 0], found, scale=5.0, exponent=0.5)
    assert without == Anchor(1, (), ())
    assert (anchor.sample_id, anchor.representatives) == (0, (2, 3))
    assert anchor.alphas == pytest.approx((4.5, 2.5))


def test_a_row_per_image_with_its_own_label() -> None:
    rows = build_rows([Anchor(0, (2, 3), (4.5, 2.5)), Anchor(1, (), ())], LABELS, 3.0)
    assert rows.sample_ids == [0, 2, 3, 1]
    assert rows.labels.tolist() == [0, 1, 2, 0]
    # The anchor takes the mean of its representatives' weights, one without any the running mean.
    assert rows.alphas.tolist() == [3.5, 4.5, 2.5, 3.0]
    assert rows.retrieved.tolist() == [True, True, True, False]
    assert rows.anchors.tolist() == [True, False, False, True]


@pytest.mark.parametrize(("count", "size", "sizes"), [(7, 3, [3, 3]), (2, 4, [2]), (4, 2, [2, 2])])
def test_batches_drop_an_incomplete_end(count: int, size: int, sizes: list[int]) -> None:
    anchors = [Anchor(number, (), ()) for number in range(count)]
    batches = list(epoch_batches(anchors, size, torch.Generator().manual_seed(1)))
    assert [len(batch) for batch in batches] == sizes
    drawn = [anchor.sample_id for batch in batches for anchor in batch]
    assert len(set(drawn)) == len(drawn)


def test_the_order_follows_the_generator() -> None:
    anchors = [Anchor(number, (), ()) for number in range(20)]

    def order(generator: torch.Generator) -> list[int]:
        return [a.sample_id for batch in epoch_batches(anchors, 5, generator) for a in batch]

    generator = torch.Generator().manual_seed(1)
    first = order(generator)
    assert first == order(torch.Generator().manual_seed(1))
    assert first != order(generator)
