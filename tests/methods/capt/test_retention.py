"""Knowledge retention: its losses by hand, and the names that they look over."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone
from capt_core.data.proctex import CLASS_NAMES, TEMPLATE
from capt_core.methods.retention import (
    RetentionNames,
    distillation_loss,
    generic_vocabulary,
    known_vocabulary,
    retention_texts,
)
from tests.methods.capt.reference import unit


def test_the_distillation_loss_by_hand() -> None:
    # Two names at scale ln 3: the base model says 3/4 and 1/4, the tuned one 1/4 and 3/4.
    texts = torch.eye(2, dtype=torch.float64)
    base, tuned = texts[[0]], texts[[1]]
    expected = 0.75 * math.log(3) - 0.25 * math.log(3)
    assert float(distillation_loss(tuned, base, texts, math.log(3))) == pytest.approx(expected)
    # The mean over images, of which one has kept its prediction.
    both = distillation_loss(texts, texts[[0, 0]], texts, math.log(3))
    assert float(both) == pytest.approx(expected / 2)
    # From the base model to the tuned one, which says one half each.
    even = torch.full((1, 2), 0.5**0.5, dtype=torch.float64)
    expected = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert float(distillation_loss(even, base, texts, math.log(4))) == pytest.approx(expected)


@given(st.integers(1, 5), st.integers(1, 6), st.floats(0.5, 100.0), st.integers(0, 9999))
def test_the_distillation_loss_of_any_batch(rows: int, names: int, scale: float, seed: int) -> None:
    tuned, base, texts = (
        unit(rows, 6, seed=seed),
        unit(rows, 6, seed=seed + 1),
        unit(names, 6, seed=1),
    )

    def logs(images: torch.Tensor) -> Any:
        logits = scale * images.numpy() @ texts.numpy().T
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    before, after = logs(base), logs(tuned)
    expected = (np.exp(before) * (before - after)).sum() / rows
    found = float(distillation_loss(tuned, base, texts, scale))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found >= -1e-12


@given(st.integers(1, 5), st.floats(0.5, 100.0), st.integers(0, 9999))
def test_nothing_is_lost_by_equal_features(rows: int, scale: float, seed: int) -> None:
    base, texts = unit(rows, 6, seed=seed), unit(7, 6, seed=seed + 1)
    tuned = base.clone().requires_grad_(True)
    loss = distillation_loss(tuned, base, texts, scale)
    assert loss.item() == 0.0
    # A minimum: nothing pulls either, but for rounding.
    loss.backward()  # type: ignore[no-untyped-call]
    assert tuned.grad is not None
    torch.testing.assert_close(tuned.grad, torch.zeros_like(base), rtol=0, atol=1e-12)


def test_the_names_that_are_looked_over(backbone: Backbone) -> None:
    class_texts = unit(5, 128, seed=0).float()

    def found(names: RetentionNames) -> torch.Tensor:
        return retention_texts(names, class_texts, [0, 1, 3], TEMPLATE, backbone)

    assert torch.equal(found("training"), class_texts[[0, 1, 3]])
    assert torch.equal(found("all"), class_texts)
    words = known_vocabulary(backbone)
    generic = found("generic")
    assert torch.equal(generic, encode_texts([TEMPLATE.format(word) for word in words], backbone))
    torch.testing.assert_close(generic.norm(dim=1), torch.ones(len(words)))
    # They depend on no class at all.
    assert torch.equal(
        retention_texts("generic", class_texts[:1], [0], TEMPLATE, backbone), generic
    )


def test_the_generic_vocabulary_names_no_class() -> None:
    words = generic_vocabulary()
    assert len(words) == len(set(words)) > 200
    assert all(word.isalpha() and word.islower() for word in words)
    assert not set(words) & {part for name in CLASS_NAMES for part in name.split("-")}
    assert not set(words) & {name.lower() for name in CLASS_NAMES}


def test_a_backbone_looks_over_the_words_it_knows(backbone: Backbone) -> None:
    known = known_vocabulary(backbone)
    assert len(known) >= 50
    words = generic_vocabulary()
    assert known == [word for word in words if word in set(known)]
    unknown = backbone.tokenizer.unknown_words  # type: ignore[attr-defined]
    assert [word for word in words if not unknown(word)] == known
    assert len(known) < len(words)
