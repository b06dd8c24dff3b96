"""CAPT on the vision transformers of open_clip, with random weights, and on the embedded one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from capt_core.backbone import tiny_clip
from tests.methods.capt.reference import capt_model, photos, randomise

# (width, heads, patches, image size, blocks); the large ones are cut to few blocks for time.
SHAPES = {
    "ViT-B-32": (768, 12, 49, 224, 4),
    "ViT-B-16": (768, 12, 196, 224, 3),
    "ViT-L-14": (1024, 16, 256, 224, 2),
    "tiny-clip": (128, 4, 64, 64, 4),
}


def random_tower(name: str, blocks: int) -> Any:
    """A CLIP that has but an image tower, as open_clip configures it."""
    import open_clip
    from open_clip.model import _build_vision_tower

    config = open_clip.get_model_config(name)
    vision = {**config["vision_cfg"], "layers": blocks}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        visual = _build_vision_tower(config["embed_dim"], vision)
    visual.eval().requires_grad_(False)
    return SimpleNamespace(visual=visual, encode_image=visual)


@pytest.mark.parametrize("name", SHAPES)
def test_every_vision_transformer(name: str) -> None:
    width, heads, patches, size, blocks = SHAPES[name]
    clip: Any
    if name == "tiny-clip":
        clip = tiny_clip.load_model().requires_grad_(False)
    else:
        clip = random_tower(name, blocks)
    tower = clip.visual
    assert (tower.class_embedding.shape[0], len(tower.transformer.resblocks)) == (width, blocks)
    assert tower.transformer.resblocks[0].attn.num_heads == heads
    model = capt_model(clip)
    assert [adapter.patch_count for adapter in model.adapters.values()] == [patches] * blocks
    image = photos(1, size)
    with torch.no_grad():
        frozen = clip.encode_image(image)
        assert torch.equal(model(image), frozen)
        tokens = model.frozen_prefix(image)
        assert tokens.shape == (1, 1 + patches, width)
        assert torch.equal(model.base_features(tokens), frozen)
    for adapter in model.adapters.values():
        randomise(adapter)
    with torch.no_grad():
        model.experts.residual_gate.fill_(0.5)
        whole, gates = model.features(tokens, torch.tensor([4.0]))
    assert gates.shape == (1, 3)
    assert not torch.isclose(whole, frozen).all()
    quick, _ = model.features(tokens, torch.tensor([4.0]), class_token_only=True)
    torch.testing.assert_close(
        functional.normalize(quick, dim=1), functional.normalize(whole, dim=1), rtol=0, atol=1e-6
    )
    quick.square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
