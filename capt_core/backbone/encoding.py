"""Frozen features of images and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.nn import functional

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.reporter import active


@torch.no_grad()
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
        advance: called with the number of images of each finished batch.
    """
    encode = encoder or backbone.clip.encode_image
    features = []
    for batch in batches:
        with backbone.precision():
            encoded = encode(batch.to(backbone.device))
        features.append(functional.normalize(encoded.float(), dim=-1).cpu())
        advance(len(batch))
    return torch.cat(features)


def check_lengths(texts: Iterable[str], backbone: Backbone) -> None:
    """Refuse texts that the backbone cannot read whole.

    Raises:
        CaptError: a text is longer than the backbone's context.
    """
    limit = backbone.tokenizer.context_length
    for text in texts:
        count = backbone.tokenizer.token_count(text)
        if count > limit:
            raise CaptError(
                f"prompt {text!r} has {count} tokens, {backbone.identity} takes {limit}; shorten it"
            )


@torch.no_grad()
def encode_texts(texts: list[str], backbone: Backbone, batch_size: int = 256) -> torch.Tensor:
    """Unit-length text features [n, d] in fp32 on the CPU.

    Raises:
        CaptError: a text is longer than the backbone's context.
    """
    check_lengths(texts, backbone)
    features = []
    with active().progress("encoded texts", len(texts)) as advance:
        for start in range(0, len(texts), batch_size):
            tokens = backbone.tokenizer(texts[start : start + batch_size]).to(backbone.device)
            with backbone.precision():
                encoded = backbone.clip.encode_text(tokens)
            features.append(functional.normalize(encoded.float(), dim=-1).cpu())
            advance(len(encoded))
    return torch.cat(features)
