"""The confusion margin by hand, what it is to L_ori, and its permuted control."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capt_core.methods.capt.losses import original_loss
from capt_core.methods.capt.margin import confusion_margin, permuted_margin

COUNTS = torch.tensor([[0, 4, 0], [0, 0, 0], [1, 1, 0]])


def test_a_margin_by_hand() -> None:
    # First row: (4.5, 0.5) / (4 + 1.5); logs differ by log 9, half of it on each side of the mean.
    margin = confusion_margin(COUNTS, 2.0)
    half = math.log(9) / 2
    assert margin[0].tolist() == pytest.approx([0.0, 2 * half, -2 * half], rel=1e-6)
    # No confusions, or equally many: nothing to tell.
    assert margin[1:].abs().max() < 1e-6


def test_it_is_added_to_the_logits_of_the_class_of_each_image() -> None:
    eye = torch.eye(3)
    margin = confusion_margin(COUNTS, 1.0)
    loss = original_loss(eye[[0, 2]], eye, torch.tensor([0, 2]), 2.0, margin)
    # exp of the logits: e^2 and 1, the wrong ones of the first image times 3 and 1/3.
    first = -math.log(math.e**2 / (math.e**2 + 3 + 1 / 3))
    second = -math.log(math.e**2 / (math.e**2 + 2))
    assert loss.item() == pytest.approx((first + second) / 2)


@given(st.integers(2, 7), st.integers(0, 99), st.floats(0, 3))
def test_margins_weigh_out_and_a_permutation_keeps_each_row(
    classes: int, seed: int, strength: float
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 9, (classes, classes), generator=drawn).fill_diagonal_(0)
    margin = confusion_margin(counts, strength)
    assert margin.diagonal().abs().max() == 0
    torch.testing.assert_close(margin.sum(dim=1), torch.zeros(classes), atol=1e-5, rtol=0)
    permuted = permuted_margin(margin, seed)
    assert permuted.diagonal().abs().max() == 0
    assert torch.equal(permuted.sort(dim=1).values, margin.sort(dim=1).values)
    assert torch.equal(permuted, permuted_margin(margin, seed))


def test_the_control_gives_margins_to_other_classes() -> None:
    margin = confusion_margin(torch.arange(36).reshape(6, 6), 1.0)
    assert not torch.equal(permuted_margin(margin, 1), margin)
    assert not torch.equal(permuted_margin(margin, 1), permuted_margin(margin, 2))
