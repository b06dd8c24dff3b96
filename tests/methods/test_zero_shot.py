"""Zero-shot confidences (eq. 1)."""

from __future__ import annotations

import torch

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
