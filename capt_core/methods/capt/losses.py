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


def first_of_each_class(labels: torch.Tensor) -> torch.Tensor:
    """Indices of the rows that show their class first, ascending."""
    seen: set[int] = set()
    kept = [i for i, y in enumerate(labels.tolist()) if not (y in seen or seen.add(y))]  # type: ignore[func-returns-value]
    return torch.tensor(kept, dtype=torch.long, device=labels.device)


def confusion_loss(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    labels: torch.Tensor,
    logit_scale: float,
    false_negatives: Literal["masked", "multi_positive", "class_unique"] = "masked",
    factor: Literal["half", "sum"] = "half",
) -> torch.Tensor:
    """Eq. 3, L_confuse: symmetric InfoNCE over the rows of a batch.

    Rows of one class repeat a text, which is then no negative of the others. `masked` leaves such
    entries out of the sums of eq. 4 and 5, `multi_positive` takes them as further right answers
    that share the target evenly, `class_unique` keeps only the first row of each class. With
    distinct labels all three are eq. 3.

    Args:
        image_features: [L, d], unit length.
        text_features: text of each row's own class, [L, d], unit length.
        labels: class of each row, [L].
        logit_scale: inverse temperature.
        false_negatives: what rows of one class are to each other.
        factor: `sum` adds both directions as printed, `half` takes their mean.
    """
    if false_negatives == "class_unique":
        kept = first_of_each_class(labels)
        image_features, text_features, labels = (
            image_features[kept],
            text_features[kept],
            labels[kept],
        )
    logits = pair_logits(image_features, text_features, logit_scale)
    equal = equal_rows(labels)
    if false_negatives == "multi_positive":
        right = equal.to(logits.dtype)
        right.fill_diagonal_(1)
        # The matrix is symmetric, so one row sum serves both directions.
        targets = right / right.sum(dim=1, keepdim=True)
        by_image = (targets * text_given_image(logits)).sum(dim=1)
        by_text = (targets.T * image_given_text(logits)).sum(dim=0)
    else:
        logits = logits.masked_fill(equal, float("-inf"))
        by_image = text_given_image(logits).diagonal()
        by_text = image_given_text(logits).diagonal()
    total = -(by_image + by_text).mean()
    return total if factor == "sum" else total / 2
