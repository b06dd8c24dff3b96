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

    Raises:
        CaptError: a feature is no number.
    """
    encode = encoder or backbone.clip.encode_image
    features = []
    for batch in batches:
        with backbone.precision():
            encoded = encode(batch.to(backbone.device))
        features.append(unit_features(encoded, backbone, "images"))
        advance(len(batch))
    return torch.cat(features)


def unit_features(encoded: torch.Tensor, backbone: Backbone, of: str) -> torch.Tensor:
    """What a tower gives, [n, d], at unit length in fp32 on the CPU.

    Args:
        encoded: from the tower.
        backbone: named where its features are broken.
        of: what was encoded, for the message.

    Raises:
        CaptError: values that are NaN or infinite, or a feature that is zero, which has no
            direction.
    """
    features = functional.normalize(encoded.float(), dim=-1).cpu()
    broken = int((~((features.norm(dim=-1) - 1).abs() < 0.01)).sum())
    if broken:
        low = backbone.autocast is not None
        advice = "set runtime.precision=fp32" if low else "check the weights: capt-stage doctor"
        raise CaptError(
            f"{backbone.source or backbone.identity}: the features of {broken} of {len(features)} "
            f"{of} are NaN, infinite or zero; {advice}"
        )
    return features


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
        CaptError: a text is longer than the backbone's context, or a feature is no number.
    """
    check_lengths(texts, backbone)
    features = []
    with active().progress("encoded texts", len(texts)) as advance:
        for start in range(0, len(texts), batch_size):
            tokens = backbone.tokenizer(texts[start : start + batch_size]).to(backbone.device)
            with backbone.precision():
                encoded = backbone.clip.encode_text(tokens)
            features.append(unit_features(encoded, backbone, "texts"))
            advance(len(encoded))
    return torch.cat(features)
