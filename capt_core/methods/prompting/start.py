"""What learned prompts are before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from capt_core.backbone.encoding import check_lengths
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.learning.randomness import generator
from capt_core.methods.prompting.text import PLACEHOLDER, token_embedding

DEVIATION = 0.02
"""Standard deviation of prompts that start from random values."""


def random_prompts(shape: Sequence[int], purpose: str, seed: int) -> torch.Tensor:
    """Prompts drawn from N(0, 0.02^2), a purpose's own for each seed."""
    return DEVIATION * torch.randn(*shape, generator=generator(purpose, seed))


def image_prompts_start(backbone: Backbone, count: int, depth: int, seed: int) -> torch.Tensor:
    """Image prompts before the first step, [J, P, D]; no more depths than the tower has blocks."""
    visual = backbone.clip.visual
    depth = min(depth, len(visual.transformer.resblocks))
    return random_prompts((depth, count, visual.class_embedding.shape[0]), "image prompts", seed)


@torch.no_grad()
def embedded_words(tokens: torch.Tensor, count: int, clip: object) -> torch.Tensor:
    """Token embeddings of the first words of a text, without positions, [count, W].

    Args:
        tokens: ids of the text, [L], a start token first.
        count: number of words.
        clip: open_clip model.
    """
    embedded: torch.Tensor = token_embedding(clip)(tokens[1 : 1 + count])
    return embedded


def word_count(words: str, backbone: Backbone) -> int:
    """Tokens of the words that a context starts from.

    Raises:
        CaptError: there are none, or more than the backbone takes.
    """
    count = backbone.tokenizer.token_count(words) - 2
    if count < 1:
        raise CaptError(
            "context_init: no words to start from; null draws context_length vectors instead"
        )
    check_lengths([words], backbone)
    return count


def context_start(words: str | None, length: int, backbone: Backbone, seed: int) -> torch.Tensor:
    """A context of some vectors before the first step, in fp32 on the CPU.

    Args:
        words: whose first `length` embeddings the context is; None draws it.
        length: n, vectors of the context.
        backbone: of the embeddings.
        seed: of the drawing.

    Returns:
        [n, W], W the width of the text tower.

    Raises:
        CaptError: fewer words than vectors, or more than the backbone takes.
    """
    embedding = token_embedding(backbone.clip)
    if words is None:
        return random_prompts((length, embedding.embedding_dim), "context", seed)
    count = word_count(words, backbone)
    if count < length:
        raise CaptError(
            f"context_length: {length} vectors cannot start from {count} words; give context_init "
            "more of them, or null, which draws the vectors"
        )
    tokens = backbone.tokenizer([words]).to(backbone.device)
    return embedded_words(tokens[0], length, backbone.clip).float().cpu()


def texts_with_context(names: Sequence[str], words: str | None, length: int) -> list[str]:
    """Texts whose first `length` tokens stand for the context: ``a photo of a name.``

    Args:
        names: of classes.
        words: that stand before the name; those beyond `length` are read as they are. None takes
            placeholders.
        length: n, vectors of the context.
    """
    before = " ".join([PLACEHOLDER] * length) if words is None else words
    return [f"{before} {name}." for name in names]
