"""The objective: equations 2 to 5 by hand and against an independent computation in float64."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from capt_core.methods.capt.losses import (
    confusion_loss,
    image_given_text,
    original_loss,
    pair_logits,
    text_given_image,
)

Array = npt.NDArray[np.float64]


def features(rows: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return functional.normalize(drawn, dim=1)


def independent_loss(images: Array, texts: Array, labels: list[int], scale: float) -> float:
    """Eq. 3 to 5, row by row; a row sees itself and the rows of other classes."""
    rows = len(labels)
    total = 0.0
    for i in range(rows):
        visible = [k for k in range(rows) if k == i or labels[k] != labels[i]]
        own = scale * float(images[i] @ texts[i])
        to_texts = [scale * float(images[i] @ texts[k]) for k in visible]
        to_images = [scale * float(images[k] @ texts[i]) for k in visible]
        for others in (to_texts, to_images):
            highest = max(others)
            total -= own - highest - math.log(sum(math.exp(x - highest) for x in others))
    return total / rows / 2


def test_the_losses_by_hand() -> None:
    # Logits [[ln 3, 0], [0, ln 3]]: each row and column gives its own entry 3 / (3 + 1).
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]], dtype=torch.float64)
    expected = torch.full((2,), math.log(0.75), dtype=torch.float64)
    torch.testing.assert_close(text_given_image(logits), expected)
    torch.testing.assert_close(image_given_text(logits), expected)
    eye = torch.eye(2, dtype=torch.float64)
    loss = confusion_loss(eye, eye, torch.tensor([0, 1]), math.log(3))
    torch.testing.assert_close(loss, torch.tensor(math.log(4 / 3), dtype=torch.float64))


def test_the_two_directions_are_rows_and_columns() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(7), 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        text_given_image(logits), torch.tensor([1 / 4, 1 / 8], dtype=torch.float64).log()
    )
    torch.testing.assert_close(
        image_given_text(logits), torch.tensor([1 / 8, 1 / 4], dtype=torch.float64).log()
    )


def test_two_rows_of_one_class_are_no_negatives() -> None:
    images = features(2, 5, 0)
    texts = features(1, 5, 1).expand(2, 5)
    loss = confusion_loss(images, texts, torch.tensor([3, 3]), 100.0)
    assert float(loss) == 0.0


def test_one_row_has_nothing_to_learn() -> None:
    loss = confusion_loss(features(1, 5, 0), features(1, 5, 1), torch.tensor([0]), 100.0)
    assert float(loss) == 0.0


def test_only_entries_of_equal_labels_are_masked() -> None:
    images, texts = features(4, 6, 0), features(4, 6, 1)
    logits = pair_logits(images, texts, torch.tensor([2, 7, 2, 5]), 10.0)
    masked = torch.zeros(4, 4, dtype=torch.bool)
    masked[0, 2] = masked[2, 0] = True
    assert torch.equal(logits == float("-inf"), masked)
    plain = 10 * images @ texts.T
    torch.testing.assert_close(logits[~masked], plain[~masked])


def test_a_masked_batch_has_finite_gradients() -> None:
    images = features(3, 5, 0).requires_grad_(True)
    texts = features(1, 5, 1).expand(3, 5)
    confusion_loss(images, texts, torch.tensor([1, 1, 1]), 100.0).backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert torch.equal(images.grad, torch.zeros_like(images))


cases = st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(0, 9999))
scales = st.floats(0.5, 100.0)


@given(cases, scales)
def test_the_loss_of_any_batch(case: tuple[list[int], int], scale: float) -> None:
    labels, seed = case
    images = features(len(labels), 6, seed)
    texts = features(5, 6, seed + 1)[labels]
    found = confusion_loss(images, texts, torch.tensor(labels), scale)
    expected = independent_loss(images.numpy(), texts.numpy(), labels, scale)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert float(found) >= -1e-12


@given(cases, scales)
def test_the_order_of_the_batch_does_not_matter(case: tuple[list[int], int], scale: float) -> None:
    labels, seed = case
    images, texts = features(len(labels), 6, seed), features(5, 6, seed + 1)[labels]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    targets = torch.tensor(labels)
    torch.testing.assert_close(
        confusion_loss(images[order], texts[order], targets[order], scale),
        confusion_loss(images, texts, targets, scale),
    )


@given(st.integers(1, 9), scales, st.integers(0, 9999))
def test_distinct_labels_give_plain_symmetric_info_nce(rows: int, scale: float, seed: int) -> None:
    images, texts = features(rows, 6, seed), features(rows, 6, seed + 1)
    logits = scale * images @ texts.T
    diagonal = torch.arange(rows)
    plain = (
        functional.cross_entropy(logits, diagonal) + functional.cross_entropy(logits.T, diagonal)
    ) / 2
    found = confusion_loss(images, texts, 3 * diagonal.flip(0), scale)
    torch.testing.assert_close(found, plain)


@given(st.integers(0, 9999), scales)
def test_a_repeated_anchor_changes_others_only_through_its_column(seed: int, scale: float) -> None:
    # Rows a, b, c and a again. As texts repeat with the class, row b's image sees text a twice.
    images, texts = features(3, 6, seed), features(3, 6, seed + 1)
    labels = torch.tensor([0, 1, 2])
    rows = torch.tensor([0, 1, 2, 0])
    once = pair_logits(images, texts, labels, scale)
    twice = pair_logits(images[rows], texts[rows], labels[rows], scale)
    torch.testing.assert_close(twice[:3, :3], once)
    # Row 0 itself neither gains nor loses a negative.
    torch.testing.assert_close(text_given_image(twice)[0], text_given_image(once)[0])
    torch.testing.assert_close(image_given_text(twice)[0], image_given_text(once)[0])


def test_the_original_loss_by_hand() -> None:
    # Cosines 1 and 0 at scale ln 3: shares 3/4 and 1/4.
    images = torch.eye(2, dtype=torch.float64)
    loss = original_loss(images, images, torch.tensor([0, 0]), math.log(3))
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))


@given(st.integers(1, 6), st.integers(1, 6), scales, st.integers(0, 9999))
def test_the_original_loss_of_any_batch(rows: int, classes: int, scale: float, seed: int) -> None:
    images, texts = features(rows, 6, seed), features(classes, 6, seed + 1)
    labels = torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(seed))
    logits: Array = scale * images.numpy() @ texts.numpy().T
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    expected = -logs[np.arange(rows), labels.numpy()].mean()
    found = original_loss(images, texts, labels, scale)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-9)
