"""The image tower with prompts is the one that CAPT starts from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from capt_core.methods.image_tower import PromptedTower
from capt_core.methods.prompting.image import check_image_tower
from tests.methods.capt.reference import capt_model, normal, photos
from tests.refusals import refusal
from tests.toys import small_clip


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_capt_starts_from_its_features_to_the_bit(depth: int) -> None:
    clip: Any = small_clip()
    prompts = 0.5 * normal(depth, 2, 32).float()
    with torch.no_grad():
        found = PromptedTower(clip.visual, list(prompts)).encode(photos())
        model = capt_model(clip, visual_prompts=prompts)
        assert torch.equal(model(photos()), found)
        assert not torch.allclose(found, clip.encode_image(photos()))


def test_gradients_reach_every_prompt_in_the_type_of_the_model() -> None:
    clip: Any = small_clip((32, 16)).double()  # a grid need not be square
    prompts = normal(3, 2, 32).requires_grad_()
    images = torch.rand(2, 3, 32, 16, generator=torch.Generator().manual_seed(0)).double()
    features = PromptedTower(clip.visual, prompts).encode(images)
    assert features.dtype == torch.float64
    (gradient,) = torch.autograd.grad(features.sum(), prompts)
    assert (gradient.abs().amax(dim=(1, 2)) > 0).all()


def test_towers_without_a_class_token_are_refused() -> None:
    pooled: Any = small_clip(pool_type="avg")
    assert "no vision transformer with a class token" in refusal(check_image_tower, pooled.visual)
