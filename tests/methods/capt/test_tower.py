"""Which image towers and blocks CAPT can be attached to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import pytest
from torch import nn

from capt_core.methods.capt.tower import adapted_blocks, check_tower, patch_count
from tests.methods.capt.reference import capt_model
from tests.refusals import refusal
from tests.toys import small_clip


def tower_refusal(clip: Any) -> str:
    message = refusal(capt_model, clip)
    assert "choose a" in message
    return message


@pytest.mark.parametrize(
    ("blocks", "indices"),
    [
        ("all", [0, 1, 2, 3]),
        (0, []),
        (1, [3]),
        (3, [1, 2, 3]),
        (4, [0, 1, 2, 3]),
        ([], []),
        ([0], [0]),
        ([3, 1], [1, 3]),
        ([2, 0, 2], [0, 2]),
    ],
)
def test_blocks_of_a_tower_of_four(
    blocks: Literal["all"] | int | list[int], indices: list[int]
) -> None:
    assert adapted_blocks(blocks, 4) == indices


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        (5, "adapter.blocks: 5 asked for, the tower has 4 blocks"),
        (-1, "adapter.blocks: -1 asked for, the tower has 4 blocks"),
        ([0, 4], "adapter.blocks: no block 4, the tower's run from 0 to 3"),
        ([-1], "adapter.blocks: no block -1, the tower's run from 0 to 3"),
    ],
)
def test_blocks_that_the_tower_lacks_are_refused(blocks: int | list[int], words: str) -> None:
    assert words in refusal(adapted_blocks, blocks, 4)


@pytest.mark.parametrize(
    ("blocks", "carriers"), [("all", "012"), (2, "12"), (0, ""), ([0, 2], "02"), ([1], "1")]
)
def test_the_blocks_asked_for_carry_adapters(blocks: Any, carriers: str) -> None:
    model = capt_model(small_clip(), blocks)
    assert list(model.adapters) == list(carriers)
    assert model.first_adapted == (int(carriers[0]) if carriers else 3)


def test_the_patches_of_a_tower() -> None:
    assert patch_count(small_clip().visual) == 16
    assert patch_count(small_clip(48).visual) == 36


def test_a_resnet_tower_is_refused() -> None:
    clip: Any = small_clip(layers=(1, 1, 1, 1), width=8, head_width=8)
    clip.visual.proj = nn.Parameter(clip.visual.attnpool.c_proj.weight.T)
    assert "ModifiedResNet is no vision transformer with a class token" in tower_refusal(clip)


def test_a_tower_without_a_class_token_is_refused() -> None:
    assert "class token" in tower_refusal(small_clip(pool_type="avg"))
    found = refusal(check_tower, SimpleNamespace(pool_type="tok"))
    assert "SimpleNamespace is no vision transformer" in found


@pytest.mark.parametrize("size", [(32, 40), (16, 64), (64, 16)])
def test_a_grid_that_is_not_square_is_refused(size: tuple[int, int]) -> None:
    # 16 x 64 pixels make 2 x 8 patches: as many as 4 x 4, but no square.
    rows, columns = size[0] // 8, size[1] // 8
    assert f"needs a square patch grid, this one is {rows} x {columns}" in tower_refusal(
        small_clip(size)
    )


def test_attention_of_another_kind_is_refused() -> None:
    words = "VisionTransformer has attention of a kind that the Diff-Manner Adapter cannot reuse"
    # open_clip's own attention class, and sequence-first attention.
    assert words in tower_refusal(small_clip(block_type="custom"))
    clip: Any = small_clip()
    clip.visual.transformer.resblocks[1].attn = nn.MultiheadAttention(32, 2)
    assert words in tower_refusal(clip)
