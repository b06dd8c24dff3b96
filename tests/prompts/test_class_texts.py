"""What images are compared with: class prompts moved by what tells the classes apart."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch

from capt_core.artifacts.schemas import CLASS_DESCRIPTIONS, CLASS_PAIRS
from capt_core.artifacts.schemas import PROMPTS as TABLE
from capt_core.artifacts.tables import schema_problem
from capt_core.prompts.class_texts import (
    described_class_ids,
    described_texts,
    most_partners,
    prompts_of_pairs,
)

PROMPTS = pl.DataFrame(
    [
        (0, "difference", "store"),
        (0, "difference", "anthropic"),
        (0, "commonality", "store"),
        (1, "difference", "template"),
    ],
    schema=["class_id", "kind", "source"],
    orient="row",
)
EMBEDDINGS = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
TEXTS = torch.eye(3)


def test_by_hand() -> None:
    # The mean of class 0's two difference prompts is (0, 1, 1) / sqrt 2 at unit length, so with
    # weight sqrt 2 its text is (1, 1, 1) / sqrt 3; templates and novel classes change nothing.
    found = described_texts(TEXTS, PROMPTS, EMBEDDINGS, math.sqrt(2))
    third = 1 / math.sqrt(3)
    torch.testing.assert_close(found[0], torch.tensor([third, third, third]))
    assert torch.equal(found[1:], TEXTS[1:])
    assert torch.equal(TEXTS, torch.eye(3))
    assert len(described_class_ids(PROMPTS)) == 1


@pytest.mark.parametrize("prompts", [PROMPTS[2:], PROMPTS.clear()])
def test_without_written_difference_prompts_nothing_changes(prompts: pl.DataFrame) -> None:
    embeddings = EMBEDDINGS[-len(prompts) :] if len(prompts) else EMBEDDINGS[:0]
    assert torch.equal(described_texts(TEXTS, prompts, embeddings, 4.0), TEXTS)
    assert described_class_ids(prompts) == []


def test_what_is_written_about_given_pairs() -> None:
    pairs = CLASS_PAIRS.frame(
        [
            {"class_id": a, "class_name": "ABC"[a], "rank": rank, "paired_class_id": b}
            | {"paired_class": "ABC"[b], "score": 0.5, "count": 0, "source": "text_similarity"}
            for a, b, rank in ((2, 0, 1), (2, 1, 2), (1, 0, 1))
        ]
    )
    schema = dict(CLASS_DESCRIPTIONS.columns)
    described = pl.DataFrame(
        [
            (2, "C", None, None, 0, None, "C alone", None, "store"),
            (2, "C", 0, "A", 1, None, "C not A", None, "store"),
            (2, "C", 0, "A", 2, None, "C never A", None, "store"),
            (0, "A", 2, "C", 0, None, "A not C", None, "store"),
            (1, "B", 0, "A", 0, None, "B not A", None, "store"),
        ],
        schema=schema,
        orient="row",
    )
    found = prompts_of_pairs(pairs, described)
    assert schema_problem(TABLE, found) is None
    assert found["prompt"].to_list() == ["C not A", "C never A", "B not A"]
    assert found["position"].to_list() == [0, 1, 0]
    assert (most_partners(pairs), most_partners(found), most_partners(found.clear())) == (2, 1, 0)
