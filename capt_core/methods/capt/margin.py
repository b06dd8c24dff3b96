"""The confusion margin: the bank's counts as a handicap of the right class in L_ori."""

from __future__ import annotations

import torch

from capt_core.learning.randomness import generator


def confusion_margin(counts: torch.Tensor, strength: float) -> torch.Tensor:
    """strength x (log P(j | y) - its mean over the classes j other than y), 0 at j = y.

    P(j | y) = (N + 1/2) / (sum of the row + B / 2) is how often images of class y are taken for
    class j, with half a confusion added to each class so that none is impossible. Added to the
    logits of cross-entropy, it asks for a wider margin to the classes that y is taken for most, and
    for a narrower one to the others: logit adjustment (Menon et al., ICLR 2021) by confusions in
    the place of class frequencies.

    Args:
        counts: N of eq. 7 among the trained classes, row: true, column: predicted, [B, B].
        strength: tau; 0 gives no margin.

    Returns:
        [B, B] in fp32, rows of wrong classes sum to 0.
    """
    others = ~torch.eye(len(counts), dtype=torch.bool, device=counts.device)
    # The sum of a row divides all of it alike, so that the mean takes it away.
    logs = (counts.double() + 0.5).log() * others
    means = logs.sum(dim=1, keepdim=True) / max(len(counts) - 1, 1)
    return (strength * (logs - means) * others).float()


def permuted_margin(margin: torch.Tensor, seed: int) -> torch.Tensor:
    """The same margins given to other wrong classes of each row: the control of what they mean.

    Args:
        margin: of `confusion_margin`, [B, B].
        seed: of the permutations, one for each row.
    """
    permuted = margin.clone()
    for row in range(len(margin)):
        others = [column for column in range(len(margin)) if column != row]
        order = torch.randperm(len(others), generator=generator("permuted margin", seed, row))
        permuted[row, others] = margin[row, [others[place] for place in order.tolist()]]
    return permuted
