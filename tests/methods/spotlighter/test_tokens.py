"""Which tokens are selected, and which towers have any."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from capt_core.methods.image_tower import ImageTower, PromptedTower
from capt_core.methods.spotlighter.method import Spotlighter, SpotlighterSettings
from capt_core.methods.spotlighter.tokens import (
    check_tower,
    image_tokens,
    projected_tokens,
    selected_tokens,
    token_rows,
)
from tests.refusals import refusal
from tests.toys import small_clip


def images(*size: int) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


def test_rows_by_hand() -> None:
    tokens = torch.arange(8.0)[None, :, None]  # token t is t; their mean is 3.5
    attention = torch.tensor([[0.3, 0.0, 0.1, 0.05, 0.2, 0.15, 0.2001]])  # of patches 0 to 6
    selected = selected_tokens(attention, "corrected")
    assert selected.tolist() == [[1, 7, 5, 6, 3]]
    assert selected_tokens(attention, "released").tolist() == [[0, 6, 4, 5, 2]]
    rows = {name: group.flatten().tolist() for name, group in token_rows(tokens, selected).items()}
    assert rows == {
        "top7": [0, 1, 7, 5, 6, 3, 3.5],
        "top2": [0, 1, 7, 3.5],
        "low3": [0, 5, 6, 3, 3.5],
    }


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])  # a grid need not be square
@pytest.mark.parametrize("depth", [0, 2])
def test_tokens_are_those_of_the_tower(size: tuple[int, int], depth: int) -> None:
    clip: Any = small_clip(size)
    tower, given = clip.visual, images(*size)
    prompts = torch.randn(depth, 3, 32, generator=torch.Generator().manual_seed(1))
    read: list[torch.Tensor] = []
    last = tower.transformer.resblocks[-1]
    hook = last.ln_1.register_forward_hook(lambda _module, _inputs, out: read.append(out))
    parts = PromptedTower(tower, prompts) if depth else ImageTower(tower)
    found = image_tokens(parts, given)
    hook.remove()
    torch.testing.assert_close(found.features[:, 0], parts.encode(given))
    _, weights = last.attn(read[0], read[0], read[0], average_attn_weights=True)
    patches = size[0] * size[1] // 64
    torch.testing.assert_close(found.attention, weights[:, 0, 1 : 1 + patches])
    assert found.features.shape == (2, 1 + patches, tower.output_dim)


def test_all_tokens_pass_a_projector_as_one_batch() -> None:
    features = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    found = projected_tokens(torch.nn.BatchNorm1d(4), features)
    flat = features.flatten(0, 1)
    expected = functional.batch_norm(flat, None, None, training=True)
    torch.testing.assert_close(found.flatten(0, 1), expected)


def test_towers_without_such_tokens_are_refused() -> None:
    def refused(clip: Any) -> str:
        return refusal(check_tower, clip.visual)

    assert "no vision transformer with a class token" in refused(small_clip(pool_type="avg"))
    assert "attention of a kind that token selection" in refused(small_clip(block_type="custom"))
    assert "needs 5 patches, the image tower has 4" in refused(small_clip((16, 16)))
    assert "pools by attention" in refused(
        small_clip(attentional_pool=True, attn_pooler_queries=2, attn_pooler_heads=2)
    )
    settings = SpotlighterSettings.model_validate({"attention_heads": 5})
    message = refusal(Spotlighter(settings).check_clip, small_clip())
    assert "dimensions do not divide among 5 heads; set attention_heads" in message
