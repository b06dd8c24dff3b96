"""CLIP-LoRA: where it starts, what learns, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone
from capt_core.methods.classes import Classes
from capt_core.methods.clip_lora import ClipLora, ClipLoraSettings, LowRankClip
from capt_core.methods.fitting import fit_method
from capt_core.methods.task import Task
from tests.methods.toy_task import NAMES, quick
from tests.refusals import refusal
from tests.toys import small_clip


def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def fitted(task: Task, shots: int = 3, **settings: Any) -> LowRankClip:
    """After an optimiser step for each shot."""
    with torch.enable_grad():
        found = fit_method(quick("clip_lora", **settings), replace(task, shots=shots)).fitted
    assert isinstance(found, LowRankClip)
    return found


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_it_starts_from_the_frozen_model_and_names_its_parameters(backbone: Backbone) -> None:
    found = LowRankClip(ClipLora(), backbone, seed=1)
    torch.testing.assert_close(found.encode(images()), backbone.clip.encode_image(images()))
    expected = encode_texts([f"a photo of a {name}." for name in NAMES], backbone)
    torch.testing.assert_close(found.class_texts(Classes.named(NAMES, "a {}")), expected)
    blocks = (
        len(backbone.clip.transformer.resblocks),
        len(backbone.clip.visual.transformer.resblocks),
    )
    widths = backbone.clip.transformer.width, backbone.clip.visual.class_embedding.shape[0]
    # A [2, D] and B [D, 2] for query, key and value of every block.
    count = sum(3 * 2 * 2 * width * depth for width, depth in zip(widths, blocks, strict=True))
    assert sum(each.numel() for each in found.parameters()) == count
    assert (
        len({id(each) for each in found.parameters()} & {*map(id, backbone.clip.parameters())}) == 0
    )


def test_two_on_one_backbone_do_not_disturb_each_other(task: Task) -> None:
    plain = task.backbone.clip.encode_image(images())
    first, second = (fitted(task, learning_rate=rate) for rate in (0.03, 0.06))
    once = first.encode(images())
    assert not torch.allclose(once, second.encode(images()), atol=1e-4)
    assert not torch.allclose(once, plain, atol=1e-4)
    assert torch.equal(first.encode(images()), once)
    assert torch.equal(task.backbone.clip.encode_image(images()), plain)
    for name, value in first.named_parameters():
        assert value.abs().max() > 0, name  # B starts at zero, and has learnt


def test_inputs_are_left_out_while_training_alone(task: Task) -> None:
    found = fitted(task, learning_rate=0.1)
    plain = found.encode(images())
    with found.dropping("a", 1):
        first = found.encode(images())
        assert torch.equal(found.encode(images()), first)
    with found.dropping("a", 2):
        assert not torch.allclose(found.encode(images()), first, atol=1e-5)
    assert torch.equal(found.encode(images()), plain)
    assert not torch.allclose(first, plain, atol=1e-5)


def test_towers_with_other_attention_are_refused() -> None:
    method = ClipLora(ClipLoraSettings(rank=4))
    method.check_clip(small_clip())
    message = refusal(method.check_clip, small_clip(block_type="custom"))
    assert "attention of a kind that a low-rank update cannot reuse; choose" in message
