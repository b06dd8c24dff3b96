"""The objective: equations 2 to 5 by hand and against an independent computation in float64."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from capt_core.methods.capt.losses import (
    confusion_loss,
    image_given_text,
    original_loss,
    text_given_image,
)
from tests.methods.capt.reference import Array, unit


def log_share(chosen: float, others: list[float]) -> float:
    """ln(e^chosen / sum e^others)."""
    highest = max(others)
    return chosen - highest - math.log(sum(math.exp(x - highest) for x in others))


def masked_loss(images: Array, texts: Array, labels: list[int], scale: float) -> float:
    """Eq. 3 to 5, row by row; a row sees itself and the rows of other classes."""
    rows = len(labels)
    total = 0.0
    for i in range(rows):
        visible = [k for k in range(rows) if k == i or labels[k] != labels[i]]
        own = scale * float(images[i] @ texts[i])
        total -= log_share(own, [scale * float(images[i] @ texts[k]) for k in visible])
        total -= log_share(own, [scale * float(images[k] @ texts[i]) for k in visible])
    return total / rows / 2


def test_the_losses_by_hand() -> None:
    # Logits [[ln 3, 0], [0, ln 3]]: each row and column gives its own entry 3 / (3 + 1).
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]], dtype=torch.float64)
    shares = torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64)
    torch.testing.assert_close(text_given_image(logits), shares.log())
    torch.testing.assert_close(image_given_text(logits), shares.log())
    eye = torch.eye(2, dtype=torch.float64)
    loss = confusion_loss(eye, eye, torch.tensor([0, 1]), math.log(3))
    torch.testing.assert_close(loss, torch.tensor(math.log(4 / 3), dtype=torch.float64))


def test_the_two_directions_are_rows_and_columns() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(7), 0.0]], dtype=torch.float64)
    by_image = torch.tensor([[1 / 4, 3 / 4], [7 / 8, 1 / 8]], dtype=torch.float64)
    by_text = torch.tensor([[1 / 8, 3 / 4], [7 / 8, 1 / 4]], dtype=torch.float64)
    torch.testing.assert_close(text_given_image(logits), by_image.log())
    torch.testing.assert_close(image_given_text(logits), by_text.log())


def test_three_rows_of_two_classes_by_hand() -> None:
    # Images and texts e1, e1, e2 of classes 0, 0, 1 at scale ln 3: logits ln 3 inside a class,
    # 0 outside.
    eye = torch.eye(2, dtype=torch.float64)
    rows = eye[[0, 0, 1]]
    labels = torch.tensor([0, 0, 1])

    # Rows 0 and 1 see 3 and 1, row 2 sees 3, 1, 1.
    loss = float(confusion_loss(rows, rows, labels, math.log(3)))
    assert loss == pytest.approx((2 * math.log(4 / 3) + math.log(5 / 3)) / 3)


def test_a_batch_of_one_class_has_no_gradient() -> None:
    images = unit(3, 5, seed=0).requires_grad_(True)
    texts = unit(1, 5, seed=1).expand(3, 5)
    confusion_loss(images, texts, torch.tensor([1, 1, 1]), 100.0).backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert torch.equal(images.grad, torch.zeros_like(images))


cases = st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(0, 9999))
scales = st.floats(0.5, 100.0)


@given(case=cases, scale=scales)
def test_the_loss_of_any_batch(case: tuple[list[int], int], scale: float) -> None:
    labels, seed = case
    images = unit(len(labels), 6, seed=seed)
    texts = unit(5, 6, seed=seed + 1)[labels]
    found = confusion_loss(images, texts, torch.tensor(labels), scale)
    expected = masked_loss(images.numpy(), texts.numpy(), labels, scale)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert float(found) >= -1e-12
    both = confusion_loss(images, texts, torch.tensor(labels), scale, "sum")
    torch.testing.assert_close(both, 2 * found)


@pytest.mark.parametrize("factor", ["half", "sum"])
@given(rows=st.integers(1, 9), scale=scales, seed=st.integers(0, 9999))
def test_distinct_labels_give_plain_symmetric_info_nce(
    factor: Literal["half", "sum"], rows: int, scale: float, seed: int
) -> None:
    images, texts = unit(rows, 6, seed=seed), unit(rows, 6, seed=seed + 1)
    logits = scale * images @ texts.T
    diagonal = torch.arange(rows)
    plain = functional.cross_entropy(logits, diagonal) + functional.cross_entropy(
        logits.T, diagonal
    )
    found = confusion_loss(images, texts, 3 * diagonal.flip(0), scale, factor)
    torch.testing.assert_close(found, plain / 2 if factor == "half" else plain)


def test_the_original_loss_by_hand() -> None:
    # Cosines 1 and 0 at scale ln 3: shares 3/4 and 1/4.
    images = torch.eye(2, dtype=torch.float64)
    loss = original_loss(images, images, torch.tensor([0, 0]), math.log(3))
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))


@given(st.integers(1, 6), st.integers(1, 6), scales, st.integers(0, 9999))
def test_the_original_loss_of_any_batch(rows: int, classes: int, scale: float, seed: int) -> None:
    images, texts = unit(rows, 6, seed=seed), unit(classes, 6, seed=seed + 1)
    labels = torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(seed))
    logits: Array = scale * images.numpy() @ texts.numpy().T
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    expected = -logs[np.arange(rows), labels.numpy()].mean()
    found = original_loss(images, texts, labels, scale)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-9)
