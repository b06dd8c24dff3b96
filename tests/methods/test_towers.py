"""Parts of a frozen CLIP replaced: what was given stays as it is, and models share it in peace."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from capt_core.backbone.loading import Backbone
from capt_core.methods.classes import Classes
from capt_core.methods.lweib.method import LwEIB
from capt_core.methods.towers import TunedTowers, tower_blocks, with_parts
from capt_core.methods.twosfs import NormTunedClip, TwoStage
from tests.refusals import refusal
from tests.toys import small_clip

CLASSES = Classes.named(["woven", "wicker"])


def images(size: int) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


class Doubled(nn.Module):
    """Twice what a module gives."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return 2 * self.module(tokens)  # type: ignore[no-any-return]


@pytest.mark.parametrize("custom_text", [False, True])
def test_a_part_is_replaced_in_a_copy_that_shares_the_rest(custom_text: bool) -> None:
    clip: Any = small_clip(custom_text=custom_text)
    blocks = tower_blocks(clip)
    norm = blocks["vision"][1].ln_1
    changed = with_parts(clip, {norm: Doubled(norm)})
    assert clip.visual.transformer.resblocks[1].ln_1 is norm
    assert changed.visual.transformer.resblocks[0] is blocks["vision"][0]
    assert changed.visual.conv1 is clip.visual.conv1
    assert changed.visual.class_embedding is clip.visual.class_embedding
    tokens = torch.tensor([[1, 2, 49, 0, 0, 0, 0, 0]])
    assert torch.equal(changed.encode_text(tokens), clip.encode_text(tokens))
    before = clip.encode_image(images(32))
    with torch.no_grad():
        norm.weight.mul_(2)
        norm.bias.mul_(2)
    assert not torch.allclose(before, clip.encode_image(images(32)))
    doubled = clip.encode_image(images(32))
    with torch.no_grad():
        norm.weight.div_(2)
        norm.bias.div_(2)
    torch.testing.assert_close(changed.encode_image(images(32)), doubled)
    assert with_parts(clip, {}) is clip


def shifted(fitted: TunedTowers) -> TunedTowers:
    """A fitted method with all that it trains changed."""
    with torch.no_grad():
        for parameter in fitted.parameters():
            parameter.add_(0.1)
    return fitted


def test_models_on_one_backbone_do_not_disturb_each_other(backbone: Backbone) -> None:
    batch = images(backbone.preprocess.size)
    plain = backbone.clip.encode_image(batch)
    convolved = LwEIB().start(backbone, 1)
    for first in (convolved, shifted(NormTunedClip(TwoStage(), backbone))):
        before = first.encode(batch), first.class_texts(CLASSES)
        assert not torch.allclose(before[0], plain)
        for second in (LwEIB().start(backbone, 2), NormTunedClip(TwoStage(), backbone)):
            assert not torch.allclose(shifted(shifted(second)).encode(batch), before[0])
        for copied in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
            assert torch.equal(copied.encode(batch), before[0])
            assert not torch.allclose(shifted(copied).encode(batch), before[0])
        assert torch.equal(first.encode(batch), before[0])
        assert torch.equal(first.class_texts(CLASSES), before[1])
        own = {value.data_ptr() for value in first.state_dict().values()}
        frozen = {value.data_ptr() for value in backbone.clip.state_dict().values()}
        assert not own & frozen
    assert torch.equal(backbone.clip.encode_image(batch), plain)


def test_other_towers_are_refused() -> None:
    clip: Any = small_clip()
    del clip.visual.transformer.resblocks[2].mlp.gelu
    message = refusal(tower_blocks, clip)
    assert "ResidualAttentionBlock of the vision tower have no layer norms and feed-" in message
    assert "choose a ViT backbone such as ViT-B-16" in message
