"""Regularisation of learned prompts towards the frozen CLIP (PromptSRC)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from capt_core.backbone.encoding import check_lengths
from capt_core.backbone.loading import Backbone
from capt_core.methods.zero_shot import class_logits
from capt_core.reporter import active

AT_ONCE = 256


@cache
def reference_templates() -> tuple[str, ...]:
    """PromptSRC's 60 templates: ``a photo of a {}.``, then the others of the first 60 that CLIP
    was evaluated with on ImageNet.
    """
    from capt_core.backbone.light_open_clip import open_clip

    first = "a photo of a {}."
    written = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES[:60]]
    return (first, *(template for template in written if template != first))


@torch.no_grad()
def frozen_text_features(
    clip: Any, tokens: torch.Tensor, batch_size: int = AT_ONCE
) -> torch.Tensor:
    """Features [N, d] of token ids [N, L], not normalised, in fp64 if the model is, else in fp32.

    Args:
        clip: open_clip model.
        tokens: ids of the texts.
        batch_size: texts per forward pass.
    """
    with active().progress("encoded texts", len(tokens)) as advance:
        parts = []
        for start in range(0, len(tokens), batch_size):
            encoded = clip.encode_text(tokens[start : start + batch_size])
            parts.append(encoded if encoded.dtype == torch.float64 else encoded.float())
            advance(len(encoded))
    return torch.cat(parts)


def mean_text_features(clip: Any, tokens: torch.Tensor, batch_size: int = AT_ONCE) -> torch.Tensor:
    """Mean of each class's frozen text features, which are not normalised before it.

    Args:
        clip: open_clip model.
        tokens: a text of every template and class, [T, C, L].
        batch_size: texts per forward pass.

    Returns:
        [C, d], not normalised.
    """
    features = frozen_text_features(clip, tokens.flatten(0, 1), batch_size)
    return features.reshape(*tokens.shape[:2], -1).mean(dim=0)


def text_reference(
    names: Sequence[str], templates: Sequence[str], backbone: Backbone
) -> torch.Tensor:
    """`mean_text_features` of class names in templates, [C, d], on the backbone's device.

    Raises:
        CaptError: a name in a template is too long for the backbone.
    """
    rows = []
    for template in templates:
        texts = [template.format(name) for name in names]
        check_lengths(texts, backbone)
        rows.append(backbone.tokenizer(texts))
    with backbone.precision():
        return mean_text_features(backbone.clip, torch.stack(rows).to(backbone.device))


def feature_distance(features: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of features and frozen ones over all N d entries, both [N, d].

    The paper's |f - f0|_1, divided by the number of entries.
    """
    return functional.l1_loss(features, reference)


def prediction_distance(
    images: torch.Tensor,
    texts: torch.Tensor,
    frozen_images: torch.Tensor,
    frozen_texts: torch.Tensor,
    logit_scale: float,
) -> torch.Tensor:
    """Divergence from the frozen predictions p0, sum p0 (log p0 - log p), divided by B C.

    Args:
        images: [B, d], unit length.
        texts: [C, d], unit length.
        frozen_images: the same images as the frozen CLIP encodes them.
        frozen_texts: what the frozen CLIP compares them with.
        logit_scale: inverse temperature.
    """
    after = class_logits(images, texts, logit_scale)
    return logits_distance(after, class_logits(frozen_images, frozen_texts, logit_scale))


def logits_distance(
    logits: torch.Tensor, reference: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """T^2 times `divergence`, over the number of logits."""
    return temperature**2 * divergence(logits, reference, temperature) / logits.numel()


def divergence(
    logits: torch.Tensor, reference: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Sum over images and classes of p0 (log p0 - log p), softmaxes at a temperature.

    Args:
        logits: of p, [..., B, C].
        reference: logits of p0, [B, C].
        temperature: T, that divides both.
    """
    before = (reference / temperature).log_softmax(dim=-1)
    after = (logits / temperature).log_softmax(dim=-1)
    before = before.expand_as(after)
    return functional.kl_div(after, before, reduction="sum", log_target=True)
