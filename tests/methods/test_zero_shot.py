"""Zero-shot confidences (eq. 1)."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from capt_core.methods.zero_shot import class_logits


def test_confidences_by_hand() -> None:
    # Eq. 1. Cosines 1 and 0.6 at scale ln(2) / 0.4: e^(0.4 s) = 2, so shares 2/3 and 1/3.
    images = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    scale = float(torch.tensor(2.0, dtype=torch.float64).log() / 0.4)
    torch.testing.assert_close(
        class_logits(images, texts, scale).softmax(dim=-1),
        torch.tensor([[2 / 3, 1 / 3]], dtype=torch.float64),
    )


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.0, 100.0), st.integers(0, 999))
def test_confidences_sum_to_one_and_rank_like_cosines(
    images: int, classes: int, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    u, w = (
        torch.nn.functional.normalize(
            torch.randn(rows, 4, generator=generator, dtype=torch.float64), dim=1
        )
        for rows in (images, classes)
    )
    confidences = class_logits(u, w, scale).softmax(dim=-1)
    torch.testing.assert_close(confidences.sum(dim=1), torch.ones(images, dtype=torch.float64))
    assert bool((confidences >= 0).all())
    if scale > 0.1:
        best = (u @ w.T).max(dim=1).values
        chosen = (u @ w.T).gather(1, confidences.argmax(dim=1, keepdim=True))[:, 0]
        torch.testing.assert_close(chosen, best)
