"""Learned vectors stand where the words stood, at the input and before deeper blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from capt_core.methods.prompting.text import (
    Position,
    context_order,
    encode_text_with_prompts,
    text_blocks,
    token_embedding,
)
from tests.refusals import refusal
from tests.toys import small_clip

WORDS = torch.tensor([[48, 7, 8, 9, 20, 49, 0, 0], [48, 7, 8, 9, 21, 22, 49, 0]])


def deep_clip(custom_text: bool) -> Any:
    """A model in fp64 whose text tower has three blocks."""
    from open_clip.model import CLIP, CustomTextCLIP

    build = CustomTextCLIP if custom_text else CLIP
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = build(
            embed_dim=24,
            vision_cfg={"layers": 1, "width": 64, "patch_size": 8, "image_size": 16},
            text_cfg={"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 3},
        )
    return clip.double().eval().requires_grad_(False)


@pytest.mark.parametrize("custom_text", [False, True])
def test_the_embedded_words_give_the_text_of_the_words(custom_text: bool) -> None:
    clip: Any = small_clip(custom_text=custom_text)
    placeholders = WORDS.clone()
    placeholders[:, 1:4] = 1
    context = token_embedding(clip)(WORDS[:1])[0, 1:4]
    found = encode_text_with_prompts(clip, placeholders, [context])
    assert torch.equal(found, clip.encode_text(WORDS))
    assert not torch.equal(found, clip.encode_text(placeholders))
    # One for each text; and the tower is left as it was.
    both = context.expand(2, -1, -1)
    assert torch.equal(encode_text_with_prompts(clip, placeholders, [both]), found)
    assert torch.equal(clip.encode_text(WORDS), found)


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_a_tower_with_deep_prompts_spelled_out(custom_text: bool, depth: int) -> None:
    clip = deep_clip(custom_text)
    tower = getattr(clip, "text", clip)
    prompts = torch.randn(depth, 2, 16, generator=torch.Generator().manual_seed(depth)).double()
    x = tower.token_embedding(WORDS)
    x[:, 1:3] = prompts[0]
    x = x + tower.positional_embedding
    for index, block in enumerate(tower.transformer.resblocks):
        if 0 < index < depth:
            x[:, 1:3] = prompts[index]
        x = block(x, attn_mask=tower.attn_mask)
    expected = tower.ln_final(x)[torch.arange(2), torch.tensor([5, 6])] @ tower.text_projection
    found = encode_text_with_prompts(clip, WORDS, prompts.requires_grad_())
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float64
    (gradient,) = torch.autograd.grad(found.sum(), prompts)
    assert (gradient[: min(depth, 3)].abs().amax(dim=(1, 2)) > 0).all()
    torch.testing.assert_close(clip.encode_text(WORDS), deep_clip(custom_text).encode_text(WORDS))


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("end", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("middle", [0, 1, 4, 5, 2, 3, 6, 7]),
        ("front", [0, 4, 5, 1, 2, 3, 6, 7]),
    ],
)
def test_the_order_of_a_context_by_hand(position: Position, expected: list[int]) -> None:
    # Three vectors at 1 to 3, a name of two tokens at 4 and 5, the end at 6.
    assert context_order([2], 3, 8, position).tolist() == [expected]
    two = context_order([1, 2], 3, 8, position)
    assert two[1].tolist() == expected
    assert two[0, 5:].tolist() == [5, 6, 7]  # what follows a name of one token stays


def test_towers_without_parts_to_change_are_refused() -> None:
    assert "no token embedding" in refusal(token_embedding, nn.Linear(2, 2))
    other = nn.Module()
    other.token_embedding = nn.Embedding(2, 2)
    assert "no blocks that deep prompts" in refusal(text_blocks, other)
