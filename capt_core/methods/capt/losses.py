"""The objective: contrast each image with its own class text and with the confusing ones."""

from __future__ import annotations

import torch
from torch.nn import functional


def original_loss(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    labels: torch.Tensor,
    logit_scale: float,
) -> torch.Tensor:
    """Eq. 2, L_ori: cross-entropy of eq. 1 over the visible classes.

    Args:
        image_features: [L, d], unit length.
        text_features: [C, d], unit length.
        labels: row of `text_features` that is right for each image, [L].
        logit_scale: inverse temperature.
    """
    return functional.cross_entropy(logit_scale * image_features @ text_features.T, labels)


def pair_logits(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    labels: torch.Tensor,
    logit_scale: float,
) -> torch.Tensor:
    """Logits between every image and every row's text, [L, L].

    Entry (i, k) with i != k and equal labels is -inf: another row's text that says the same
    thing is no negative. With distinct labels this changes nothing.
    """
    logits = logit_scale * image_features @ text_features.T
    equal = labels[:, None] == labels[None, :]
    equal.fill_diagonal_(False)
    return logits.masked_fill(equal, float("-inf"))


def text_given_image(logits: torch.Tensor) -> torch.Tensor:
    """Eq. 4: log-probability of each image's own text among the texts of the batch, [L]."""
    return logits.log_softmax(dim=1).diagonal()


def image_given_text(logits: torch.Tensor) -> torch.Tensor:
    """Eq. 5: log-probability of each text's own image among the images of the batch, [L]."""
    return logits.log_softmax(dim=0).diagonal()


def confusion_loss(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    labels: torch.Tensor,
    logit_scale: float,
) -> torch.Tensor:
    """Eq. 3, L_confuse, with the factor 1/2: symmetric InfoNCE over the rows of a batch.

    Args:
        image_features: [L, d], unit length.
        text_features: text of each row's own class, [L, d], unit length.
        labels: class of each row, [L].
        logit_scale: inverse temperature.
    """
    logits = pair_logits(image_features, text_features, labels, logit_scale)
    return -(text_given_image(logits) + image_given_text(logits)).mean() / 2
