"""CoOp: context vectors learnt in place of a prompt's words (Zhou et al., IJCV 2022).

The context is shared by all classes and stands before the class name, so it carries over to
classes it was not learnt on. Images enter as stored features of the frozen tower, that is in the
test view; the original augments them anew at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import torch
from torch import nn
from torch.nn import functional

from capt_core import params
from capt_core.backbone.encoding import check_lengths
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.methods.fitting import FewShotFeatures, descend

_PLACEHOLDER = "X"  # one token in CLIP's vocabulary; its embedding is replaced


def encode_with_context(clip: Any, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Text features with the tokens behind the start token replaced by context vectors.

    open_clip's own text tower runs; only what its token embedding returns is changed, so every
    layout of that tower (`CLIP`, `CustomTextCLIP`) and its pooling are kept.

    Args:
        clip: open_clip model.
        tokens: [n, context length], with M placeholders behind the start token.
        context: [M, W], W the width of the text tower.

    Returns:
        Features [n, d], not normalised; gradients reach `context`.
    """
    length = len(context)

    def replaced(_module: nn.Module, _inputs: object, embedded: torch.Tensor) -> torch.Tensor:
        rows = context.to(embedded.dtype).expand(len(embedded), -1, -1)
        return torch.cat([embedded[:, :1], rows, embedded[:, 1 + length :]], dim=1)

    hook = token_embedding(clip).register_forward_hook(replaced)
    try:
        features: torch.Tensor = clip.encode_text(tokens)
    finally:
        hook.remove()
    return features


def token_embedding(clip: Any) -> nn.Embedding:
    """The token embedding of an open_clip model's text tower.

    Raises:
        CaptError: the text tower is not open_clip's own.
    """
    tower = getattr(clip, "text", clip)
    embedding = getattr(tower, "token_embedding", None)
    if not isinstance(embedding, nn.Embedding):
        raise CaptError(
            f"coop: the text tower {type(tower).__name__} has no token embedding to learn a "
            "context for; choose a backbone with open_clip's own text tower, such as ViT-B-16"
        )
    return embedding


def prompts_with_context(names: Sequence[str], length: int) -> list[str]:
    """Texts whose first `length` tokens stand for the context: ``X X X X name.``"""
    return [" ".join([*[_PLACEHOLDER] * length, f"{name}."]) for name in names]


def shown_prompts(names: Sequence[str], length: int) -> list[str]:
    """The same for people, who cannot read the vectors: ``[v1] [v2] [v3] [v4] name.``"""
    vectors = " ".join(f"[v{number}]" for number in range(1, length + 1))
    return [f"{vectors} {name}." for name in names]


def initial_context(settings: params.Coop, backbone: Backbone, seed: int) -> torch.Tensor:
    """Context before the first step: embedded words, or N(0, 0.02^2) drawn from a seed, [M, W].

    Raises:
        CaptError: `context_init` holds no words.
    """
    embedding = token_embedding(backbone.clip)
    if settings.context_init is None:
        generator = torch.Generator().manual_seed(seed)
        return 0.02 * torch.randn(
            settings.context_length, embedding.embedding_dim, generator=generator
        )
    count = backbone.tokenizer.token_count(settings.context_init) - 2
    if count < 1:
        raise CaptError(
            "context_init: no words to start from; null draws context_length vectors instead"
        )
    check_lengths([settings.context_init], backbone)
    tokens = backbone.tokenizer([settings.context_init]).to(backbone.device)
    with torch.no_grad():
        embedded: torch.Tensor = embedding(tokens)
    return embedded[0, 1 : 1 + count].float().cpu()


@torch.no_grad()
def context_features(
    context: torch.Tensor, names: Sequence[str], backbone: Backbone, batch_size: int = 256
) -> torch.Tensor:
    """Unit-length text features [n, d] of class names behind a context, fp32, on the CPU.

    Raises:
        CaptError: a name is too long for the backbone behind this context.
    """
    tokens = _tokens(names, len(context), backbone)
    features = []
    for start in range(0, len(tokens), batch_size):
        part = tokens[start : start + batch_size]
        with backbone.precision():
            encoded = encode_with_context(backbone.clip, part, context.to(backbone.device))
        features.append(functional.normalize(encoded.float(), dim=-1).cpu())
    return torch.cat(features)


def fit_context(
    images: FewShotFeatures,
    names: Sequence[str],
    backbone: Backbone,
    settings: params.Coop,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[torch.Tensor, pl.DataFrame]:
    """Learn a context by cross-entropy over the training classes; nothing else changes.

    Args:
        images: of the training classes; labels index `names`.
        names: of the training classes, as they stand in a sentence.
        backbone: frozen.
        settings: start of the context, optimiser and schedule.
        seed: of the order of batches, and of a random start.
        advance: told 1 after each epoch.

    Returns:
        The context [M, W] and the log of `descend`.
    """
    context = nn.Parameter(initial_context(settings, backbone, seed).to(backbone.device))
    tokens = _tokens(names, len(context), backbone)
    features, labels = images.features.to(backbone.device), images.labels.to(backbone.device)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        with backbone.precision():
            encoded = encode_with_context(backbone.clip, tokens, context)
        texts = functional.normalize(encoded.float(), dim=-1)
        logits = backbone.logit_scale * features[batch] @ texts.T
        return functional.cross_entropy(logits, labels[batch])

    log = descend([context], loss_of, len(labels), settings, seed, advance)
    return context.detach().cpu(), log


def _tokens(names: Sequence[str], length: int, backbone: Backbone) -> torch.Tensor:
    texts = prompts_with_context(names, length)
    check_lengths(texts, backbone)
    return backbone.tokenizer(texts).to(backbone.device)
