"""Learned prompts in a text tower: a context at its input, deep prompts at inputs of its blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn

from capt_core.errors import CaptError

Position = Literal["end", "middle", "front"]
"""Where the class name stands: behind the context, in its middle, before it."""

PLACEHOLDER = "X"  # one token in CLIP's vocabulary; its embedding is replaced


def text_tower(clip: Any) -> Any:
    """The module that holds the text tower: a part of `CustomTextCLIP`, or `CLIP` itself."""
    return getattr(clip, "text", clip)


def token_embedding(clip: Any) -> nn.Embedding:
    """The token embedding of an open_clip model's text tower.

    Raises:
        CaptError: the text tower is not open_clip's own.
    """
    tower = text_tower(clip)
    embedding = getattr(tower, "token_embedding", None)
    if not isinstance(embedding, nn.Embedding):
        raise CaptError(
            f"the text tower {type(tower).__name__} has no token embedding to learn a context "
            "for; choose a backbone with open_clip's own text tower, such as ViT-B-16"
        )
    return embedding


def text_blocks(clip: Any) -> Sequence[nn.Module]:
    """The blocks of an open_clip model's text tower.

    Raises:
        CaptError: the text tower is not open_clip's own.
    """
    token_embedding(clip)
    transformer = getattr(text_tower(clip), "transformer", None)
    blocks = getattr(transformer, "resblocks", None)
    if not isinstance(blocks, nn.ModuleList) or not getattr(transformer, "batch_first", False):
        raise CaptError(
            f"the text tower {type(text_tower(clip)).__name__} has no blocks that deep prompts can "
            "be put before; choose a backbone with open_clip's own text tower, such as ViT-B-16"
        )
    return list(blocks)


def overwritten(tokens: torch.Tensor, prompts: torch.Tensor, start: int) -> torch.Tensor:
    """Tokens with those from a position on replaced.

    Args:
        tokens: [B, L, W].
        prompts: [n, W] for all rows, or [B, n, W].
        start: position of the first that is replaced.

    Returns:
        [B, L, W], of the type of `tokens`.
    """
    rows = prompts.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
    return torch.cat([tokens[:, :start], rows, tokens[:, start + rows.shape[1] :]], dim=1)


def made_room(tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Token ids [C, L] with positions 1 to `count` free for prompts; the rest moves behind them.

    What stands there is the start token. As many pads fall off the end.
    """
    free = tokens[:, :1].expand(-1, count)
    return torch.cat([tokens[:, :1], free, tokens[:, 1 : tokens.shape[1] - count]], dim=1)


def context_order(
    name_lengths: Sequence[int], count: int, length: int, position: Position
) -> torch.Tensor:
    """Where each token of a text comes from when its class name stands elsewhere.

    Tokens behind the name (full stop, end, padding) keep their places, so that the end of the text
    is found where it is with the name behind the context.

    Args:
        name_lengths: tokens of each name, [C].
        count: M, vectors of the context.
        length: L, of the texts.
        position: of the name.

    Returns:
        Positions in ``start, context, name, rest``, [C, L].
    """
    half = {"end": count, "middle": count // 2, "front": 0}[position]
    rows = []
    for name in name_lengths:
        before, behind = range(1, 1 + half), range(1 + half, 1 + count)
        end = 1 + count + name
        rows.append([0, *before, *range(1 + count, end), *behind, *range(end, length)])
    return torch.tensor(rows, dtype=torch.long)


def encode_text_with_prompts(
    clip: Any,
    tokens: torch.Tensor,
    prompts: Sequence[torch.Tensor] | torch.Tensor,
    order: torch.Tensor | None = None,
) -> torch.Tensor:
    """Text features with learned vectors in place of the tokens behind the start token.

    open_clip's own text tower runs; only what its token embedding returns and what its blocks are
    given is changed, so every layout of that tower (`CLIP`, `CustomTextCLIP`) and its pooling, by
    token ids, are kept.

    Args:
        clip: open_clip model.
        tokens: [C, L], with words or placeholders where the prompts go.
        prompts: by depth. The first, the context, [n, W] or one for each text, [C, n, W],
            replaces embeddings; the j-th, [n, W], the same positions at the input of block j.
            Later blocks let pass what came out of them.
        order: positions that the embedded tokens are taken from, see `context_order`; None leaves
            them in theirs.

    Returns:
        Features [C, d], not normalised; gradients reach `prompts`.
    """
    with _changed_inputs(clip, prompts, order):
        features: torch.Tensor = clip.encode_text(tokens)
    return features


@contextmanager
def _changed_inputs(
    clip: Any, prompts: Sequence[torch.Tensor] | torch.Tensor, order: torch.Tensor | None
) -> Iterator[None]:
    def embed(_module: nn.Module, _inputs: object, embedded: torch.Tensor) -> torch.Tensor:
        changed = overwritten(embedded, prompts[0], 1)
        if order is None:
            return changed
        return changed.gather(1, order.to(changed.device)[:, :, None].expand_as(changed))

    def replacing(prompt: torch.Tensor) -> Any:
        return lambda _module, inputs: (overwritten(inputs[0], prompt, 1), *inputs[1:])

    with ExitStack() as stack:
        stack.callback(token_embedding(clip).register_forward_hook(embed).remove)
        if len(prompts) > 1:
            # A tower may have fewer blocks than there are prompts.
            for block, prompt in zip(text_blocks(clip)[1:], prompts[1:], strict=False):
                stack.callback(block.register_forward_pre_hook(replacing(prompt)).remove)
        yield
