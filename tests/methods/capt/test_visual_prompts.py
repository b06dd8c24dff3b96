"""Towers with learned visual prompts (IVLP): where prompt tokens stand and what changes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.methods.capt.reference import capt_model, normal, photos, randomise

ALPHAS = torch.tensor([0.5, 2.0, 3.0, 5.0])


def drawn_prompts(depth: int, count: int = 2) -> torch.Tensor:
    return 0.5 * normal(depth, count, 32, seed=depth).float()


def tower_with_prompts(clip: Any, prompts: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """An IVLP tower: prompts stand behind the patches; deeper ones take the place of the former."""
    tower = clip.visual
    depth, count, _ = prompts.shape
    x = tower.conv1(images).flatten(2).transpose(1, 2)
    rows = len(x)
    x = torch.cat([tower.class_embedding.expand(rows, 1, -1), x], dim=1)
    x = x + tower.positional_embedding
    x = tower.ln_pre(torch.cat([x, prompts[0].expand(rows, -1, -1)], dim=1))
    for index, block in enumerate(tower.transformer.resblocks):
        if 0 < index < depth:
            x[:, -count:] = prompts[index]
        x = block(x)
    features: torch.Tensor = tower.ln_post(x[:, 0]) @ tower.proj
    return features


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("blocks", ["all", 2, 1, 0, [0, 2]], ids=str)
def test_step_0_is_the_tower_with_its_prompts(clip: Any, depth: int, blocks: Any) -> None:
    prompts = drawn_prompts(depth)
    model = capt_model(clip, blocks, visual_prompts=prompts)
    with torch.no_grad():
        expected = tower_with_prompts(clip, prompts, photos())
        assert not torch.allclose(expected, clip.encode_image(photos()))
        assert torch.equal(model(photos()), expected)
        randomise(model)
        # Whatever was learnt, the base features are those of the tower.
        assert torch.equal(model.base_features(model.frozen_prefix(photos())), expected)
        assert not torch.isclose(model(photos()), expected).all(dim=1).any()


@pytest.mark.parametrize("depth", [1, 3])
def test_the_forward_pass_with_prompts_spelled_out(clip: Any, depth: int) -> None:
    prompts = drawn_prompts(depth)
    model = capt_model(clip, visual_prompts=prompts)
    randomise(model)
    tower = clip.visual
    with torch.no_grad():
        x = torch.cat([tower._embeds(photos()), tower.ln_pre(prompts[0]).expand(4, -1, -1)], dim=1)
        for index, block in enumerate(tower.transformer.resblocks):
            if 0 < index < depth:
                x[:, -2:] = prompts[index]
            z = block.ln_1(x)[:, :17]
            g = block.attn(z[:, :1], z[:, 1:], z[:, 1:], need_weights=False)[0]
            grid = (z[:, 1:] + g).transpose(1, 2).unflatten(2, (4, 4))
            kernel = model.adapters[str(index)].get_parameter("kernel")
            detail = functional.conv2d(grid, kernel, padding=1, groups=32).flatten(2)
            x[:, 1:17] += ALPHAS[:, None, None] * detail.transpose(1, 2)
            x = block(x)
        added, _ = model.experts(tower.transformer.resblocks[-1].ln_2(x[:, 0]))
        expected = tower.ln_post(x[:, 0] + added) @ tower.proj
        tokens = model.frozen_prefix(photos())
        for quick in (False, True):
            found, _ = model.features(tokens, ALPHAS, class_token_only=quick)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
