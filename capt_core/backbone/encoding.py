"""Frozen features of images and texts, and the class confidences they give."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import batched

import torch
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError


@torch.inference_mode()
def encode_images(
    batches: Iterable[torch.Tensor],
    backbone: Backbone,
    encoder: Callable[[torch.Tensor], torch.Tensor] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> torch.Tensor:
    """Unit-length image features [N, d] in fp32 on the CPU.

    Args:
        batches: image tensors [B, 3, S, S].
        backbone: whose image tower encodes them, unless `encoder` does.
        encoder: maps a batch to features [B, d].
        advance: told the number of images of each finished batch.
    """
    encode = encoder or backbone.clip.encode_image
    features = []
    for batch in batches:
        with backbone.precision():
            encoded = encode(batch.to(backbone.device))
        features.append(functional.normalize(encoded.float(), dim=-1).cpu())
        advance(len(batch))
    return torch.cat(features)


@torch.inference_mode()
def encode_texts(texts: list[str], backbone: Backbone, batch_size: int = 256) -> torch.Tensor:
    """Unit-length text features [n, d] in fp32 on the CPU.

    Raises:
        CaptError: a text is longer than the backbone's context.
    """
    limit = backbone.tokenizer.context_length
    for text in texts:
        if backbone.tokenizer.token_count(text) > limit:
            raise CaptError(
                f"prompt {text!r} has {backbone.tokenizer.token_count(text)} tokens, "
                f"{backbone.identity} takes {limit}; shorten it"
            )
    features = []
    for start in range(0, len(texts), batch_size):
        tokens = backbone.tokenizer(texts[start : start + batch_size]).to(backbone.device)
        with backbone.precision():
            encoded = backbone.clip.encode_text(tokens)
        features.append(functional.normalize(encoded.float(), dim=-1).cpu())
    return torch.cat(features)


def class_confidences(
    image_features: torch.Tensor, text_features: torch.Tensor, logit_scale: float
) -> torch.Tensor:
    """Eq. 1: softmax over classes of the scaled cosines.

    Args:
        image_features: [N, d], unit length.
        text_features: [C, d], unit length, one per class.
        logit_scale: the inverse temperature.

    Returns:
        Confidences [N, C]; every row sums to 1.
    """
    return (logit_scale * image_features @ text_features.T).softmax(dim=-1)
