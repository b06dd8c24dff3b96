"""Knowledge retention: losses that keep a tuned model near its frozen base model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Literal

import torch
from torch.nn import functional

from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone

VOCABULARY = "generic_vocabulary.txt"

RetentionNames = Literal["training", "all", "generic", "prompts"]


def distillation_loss(
    image_features: torch.Tensor,
    base_features: torch.Tensor,
    texts: torch.Tensor,
    logit_scale: float,
    tuned_texts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean Kullback-Leibler divergence from the base model's predictions to the tuned ones.

    Args:
        image_features: of the tuned model, [L, d], unit length.
        base_features: of the frozen base model for the same views, [L, d], unit length.
        texts: text features of the names that are predicted, [V, d], unit length.
        logit_scale: inverse temperature.
        tuned_texts: of the same names, unit length, [V, d], where the text tower is tuned, too.
    """
    tuned = texts if tuned_texts is None else tuned_texts
    before = (logit_scale * base_features @ texts.T).log_softmax(dim=1)
    after = (logit_scale * image_features @ tuned.T).log_softmax(dim=1)
    return functional.kl_div(after, before, reduction="batchmean", log_target=True)


@cache
def generic_vocabulary() -> tuple[str, ...]:
    """Everyday English words for looks, materials, shapes and things; no class names needed."""
    text = (resources.files("capt_core.prompts") / VOCABULARY).read_text(encoding="utf-8")
    return tuple(dict.fromkeys(text.split()))


def known_vocabulary(backbone: Backbone) -> list[str]:
    """Generic words that the backbone's tokenizer has tokens for, in order."""
    unknown = getattr(backbone.tokenizer, "unknown_words", None)
    return [word for word in generic_vocabulary() if unknown is None or not unknown(word)]


def generic_prompts(template: str, backbone: Backbone) -> list[str]:
    """The generic vocabulary in a data set's template."""
    return [template.format(word) for word in known_vocabulary(backbone)]


def generic_texts(template: str, backbone: Backbone) -> torch.Tensor:
    """Text features [V, d] of the generic vocabulary in a data set's template, unit length."""
    return encode_texts(generic_prompts(template, backbone), backbone)


def retention_texts(
    names: RetentionNames,
    class_texts: torch.Tensor,
    training_classes: Sequence[int],
    template: str,
    backbone: Backbone,
    prompts: Sequence[str] = (),
) -> torch.Tensor:
    """Text features over which the base model's predictions are kept, [V, d], unit length.

    Args:
        names: `training` (the classes that are trained), `all` (novel ones too: the run sees
            their names), `generic` (everyday words, no class names needed), or `prompts` (these
            words and the prompts of the confused pairs, which name trained classes only).
        class_texts: of all classes in class order, [C, d], unit length.
        training_classes: ids of the classes that are trained.
        template: what a generic word is filled into.
        backbone: encodes the words and prompts.
        prompts: of the confused pairs.
    """
    if names in ("generic", "prompts"):
        words = generic_texts(template, backbone)
        if names == "prompts":
            words = torch.cat([words, encode_texts(sorted(set(prompts)), backbone)])
        return words.to(class_texts.device)
    return class_texts if names == "all" else class_texts[list(training_classes)]
