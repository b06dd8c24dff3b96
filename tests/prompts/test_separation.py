"""How well prompts separate their pair, against an independent count; kept embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from capt_core import params
from capt_core.artifacts.schemas import PROMPT_SEPARATION
from capt_core.artifacts.tables import schema_problem
from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone, load_backbone
from capt_core.prompts import embedding
from capt_core.prompts.separation import auc, separation_table

VALUES = st.lists(st.integers(0, 5), min_size=1, max_size=12)


def test_auc_by_hand() -> None:
    # Of the 6 pairs 3 > 1, 3 > 2 and 2 > 1 count one, 2 = 2 counts a half.
    assert auc(np.array([3.0, 2.0]), np.array([1.0, 2.0, 4.0])) == pytest.approx(3.5 / 6)
    assert auc(np.array([1.0]), np.array([0.0])) == 1
    assert auc(np.array([1.0]), np.array([1.0])) == 0.5


@given(VALUES, VALUES)
def test_auc_is_the_area_under_the_roc_curve(own: list[int], other: list[int]) -> None:
    found = auc(np.array(own, float), np.array(other, float))
    labels = [1] * len(own) + [0] * len(other)
    assert found == pytest.approx(roc_auc_score(labels, own + other))
    assert found == pytest.approx(1 - auc(np.array(other, float), np.array(own, float)))


PROMPTS = pl.DataFrame(
    {
        "class_id": [0, 0, 0, 1, 0],
        "class_name": ["a", "a", "a", "b", "a"],
        "paired_class_id": [1, 1, 1, 0, 2],
        "paired_class": ["b", "b", "b", "a", "c"],
        "kind": ["commonality", "difference", "difference", "difference", "difference"],
        "prompt": ["both", "good", "bad", "of b", "no images"],
    }
)


def test_separation_by_hand() -> None:
    x, y = [1.0, 0.0], [0.0, 1.0]
    embeddings = np.array([x, x, y, x, x])
    images = {0: np.array([x, [0.8, 0.6]]), 1: np.array([y])}
    table = separation_table(PROMPTS, embeddings, images.get)
    assert schema_problem(PROMPT_SEPARATION, table) is None
    assert table.select(
        "class_name", "paired_class", "auc", "weakest_prompt", "weakest_auc"
    ).rows() == [
        ("b", "a", 0.0, "of b", 0.0),
        # Mean cosines of "good" and "bad": 0.5 and 0.7 against 0.5.
        ("a", "b", 0.75, "bad", 0.0),
    ]
    row = table.row(1, named=True)
    assert (row["images"], row["paired_images"]) == (2, 1)
    assert row["cosine"] == pytest.approx((1 + 0.8 + 0 + 0.6) / 4)
    assert row["paired_cosine"] == pytest.approx(0.5)


def test_no_difference_prompts_give_no_rows() -> None:
    table = separation_table(PROMPTS.clear(), np.zeros((0, 2)), lambda _: None)
    assert table.is_empty()
    assert schema_problem(PROMPT_SEPARATION, table) is None


def test_embeddings_are_kept_and_damaged_ones_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(params.Backbone(), params.Runtime(device="cpu"))
    calls = []

    def counted(texts: list[str], backbone: Backbone) -> torch.Tensor:
        calls.append(texts)
        return encode_texts(texts, backbone)

    monkeypatch.setattr("capt_core.prompts.embedding.encode_texts", counted)
    texts = ["a dotted texture", "a banded texture", "a dotted texture"]
    first = embedding.prompt_embeddings(texts, backbone, tmp_path)
    assert calls == [["a banded texture", "a dotted texture"]]
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(first[0], first[2])
    expected = encode_texts(["a banded texture"], backbone).numpy()
    np.testing.assert_allclose(first[1], expected[0], atol=1e-5)

    again = embedding.prompt_embeddings(texts[::-1], backbone, tmp_path)
    assert len(calls) == 1
    np.testing.assert_array_equal(again, first[::-1])

    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    warned: list[str] = []
    made_anew = embedding.prompt_embeddings(texts, backbone, tmp_path, warned.append)
    np.testing.assert_array_equal(made_anew, first)
    assert len(calls) == 2
    assert len(warned) == 1
    assert f"set aside as {path.name}.damaged" in warned[0]
    embedding.prompt_embeddings(texts[:1], backbone, tmp_path)
    assert len(calls) == 3
