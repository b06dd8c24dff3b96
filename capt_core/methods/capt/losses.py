"""The objective: contrast each image with its own class text and with the confusing ones."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional


def original_loss(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    labels: torch.Tensor,
    logit_scale: float,
    margin: torch.Tensor | None = None,
) -> torch.Tensor:
    """Eq. 2, L_ori: cross-entropy of eq. 1 over the visible classes.

    Args:
        image_features: [L, d], unit length.
        text_features: [C, d], unit length.
        labels: row of `text_features` that is right for each image, [L].
        logit_scale: inverse temperature.
        margin: added to the logits of images of each class, [C, C]; see `confusion_margin`.
    """
    logits = logit_scale * image_features @ text_features.T
    return functional.cross_entropy(logits if margin is None else logits + margin[labels], labels)


def equal_rows(labels: torch.Tensor) -> torch.Tensor:
    """Pairs of different rows that show the same class, [L, L] bool: false negatives."""
    equal = labels[:, None] == labels[None, :]
    return equal.fill_diagonal_(False)


def pair_logits(
    image_features: torch.Tensor, text_features: torch.Tensor, logit_scale: float
) -> torch.Tensor:
    """Logits between every image and every row's text, [L, L]."""
    return logit_scale * image_features @ text_features.T


def text_given_image(logits: torch.Tensor) -> torch.Tensor:
    """Eq. 4: log-probability of each text of the batch for each image, [L, L] (row: image)."""
    return logits.log_softmax(dim=1)


def image_given_text(logits: torch.Tensor) -> torch.Tensor:
    """Eq. 5: log-probability of each image of the batch for each text, [L, L] (column: text)."""
    return logits.log_softmax(dim=0)


def confusion_loss(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    labels: torch.Tensor,
    logit_scale: float,
    factor: Literal["half", "sum"] = "half",
) -> torch.Tensor:
    """Eq. 3, L_confuse: symmetric InfoNCE over the rows of a batch.

    Rows of one class repeat a text, which is then no negative of the others: such entries are left
    out of the sums of eq. 4 and 5.

    Args:
        image_features: [L, d], unit length.
        text_features: text of each row's own class, [L, d], unit length.
        labels: class of each row, [L].
        logit_scale: inverse temperature.
        factor: `sum` adds both directions as printed, `half` takes their mean.
    """
    logits = pair_logits(image_features, text_features, logit_scale)
    logits = logits.masked_fill(equal_rows(labels), float("-inf"))
    by_image = text_given_image(logits).diagonal()
    by_text = image_given_text(logits).diagonal()
    total = -(by_image + by_text).mean()
    return total if factor == "sum" else total / 2
