"""CAPT around a frozen tower: what it leaves alone, what it trains, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from capt_core.errors import CaptError
from capt_core.methods.capt.losses import confusion_loss
from capt_core.methods.capt.model import (
    CaptModel,
    CaptSettings,
    check_tower,
    load_state,
    save_state,
)
from tests.toys import small_clip

BLOCKS = 3
ALPHA = 5.0


@pytest.fixture
def clip() -> Any:
    return small_clip()


def capt(clip: Any, blocks: int | None = None, seed: int = 0, **settings: Any) -> CaptModel:
    generator = torch.Generator().manual_seed(9)
    centres = functional.normalize(torch.randn(5, 24, generator=generator), dim=1)
    shape = CaptSettings(
        **{
            "adapter_blocks": blocks,
            "kernel_size": 3,
            "active_experts": 2,
            "mask_rate": 0.3,
            "initial_alpha": ALPHA,
            **settings,
        }
    )
    return CaptModel(clip.visual, centres[:2], centres[2:], shape, seed)


def photos(count: int = 4, side: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def randomise(model: CaptModel, seed: int = 3) -> None:
    """Leave the start: no trainable tensor is zero any more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("blocks", [None, 3, 2, 1, 0])
def test_step_0_is_the_frozen_tower_bit_for_bit(clip: Any, blocks: int | None) -> None:
    model = capt(clip, blocks)
    with torch.no_grad():
        frozen = clip.encode_image(photos())
        assert torch.equal(model(photos()), frozen)
        # In training as well: kernels and the residual gate are zero, whatever is masked.
        model.train()
        alpha = torch.tensor([0.1, 1.0, 4.0, 5.0])
        tokens = model.frozen_prefix(photos())
        trained, gates = model.features(tokens, alpha, torch.Generator().manual_seed(0))
        assert torch.equal(trained, frozen)
    assert gates.shape == (4, 3)


@pytest.mark.parametrize(
    "tower",
    [
        {"final_ln_after_pool": True},
        {"no_ln_pre": True},
        {"ls_init_value": 0.5},
        {"patch_dropout": 0.5},
        {"pos_embed_type": "sin_cos_2d"},
    ],
    ids=lambda tower: str(next(iter(tower))),
)
def test_step_0_holds_for_other_vision_transformers(tower: dict[str, Any]) -> None:
    clip: Any = small_clip(**tower)
    with torch.no_grad():
        assert torch.equal(capt(clip)(photos()), clip.encode_image(photos()))


@pytest.mark.parametrize("blocks", [None, 1])
def test_every_part_acts_once_it_has_left_the_start(clip: Any, blocks: int | None) -> None:
    with torch.no_grad():
        frozen = clip.encode_image(photos())
        adapted = capt(clip, blocks)
        for adapter in adapted.adapters.values():
            adapter.get_parameter("kernel").fill_(0.1)
        assert not torch.allclose(adapted(photos()), frozen)
        mixed = capt(clip, blocks)
        mixed.experts.residual_gate.fill_(0.5)
        assert not torch.allclose(mixed(photos()), frozen)


@pytest.mark.parametrize(("blocks", "carriers"), [(None, "012"), (2, "12"), (1, "2"), (0, "")])
def test_the_last_blocks_carry_adapters(clip: Any, blocks: int | None, carriers: str) -> None:
    model = capt(clip, blocks)
    assert list(model.adapters) == list(carriers)
    assert model.first_adapted == BLOCKS - len(carriers)


@pytest.mark.parametrize("blocks", [-1, 4])
def test_more_adapters_than_blocks_are_refused(clip: Any, blocks: int) -> None:
    with pytest.raises(CaptError, match=f"train.adapter_blocks: {blocks}.*has 3 blocks"):
        capt(clip, blocks)


def reference_features(clip: Any, model: CaptModel, images: torch.Tensor, alpha: float) -> Any:
    """Section 3.7, steps 7 and 8, spelled out on the tower's parts."""
    tower = clip.visual
    x = tower._embeds(images)
    for index, block in enumerate(tower.transformer.resblocks):
        if str(index) in model.adapters:
            z = block.ln_1(x)
            g = block.attn(z[:, :1], z[:, 1:], z[:, 1:], need_weights=False)[0]
            grid = (z[:, 1:] + g).transpose(1, 2).unflatten(2, (4, 4))
            kernel = model.adapters[str(index)].get_parameter("kernel")
            detail = functional.conv2d(grid, kernel, padding=1, groups=32).flatten(2)
            x = torch.cat([x[:, :1], x[:, 1:] + alpha * detail.transpose(1, 2)], dim=1)
        x = block(x)
    last = tower.transformer.resblocks[-1]
    added, _ = model.experts(last.ln_2(x[:, 0]))
    return tower.ln_post(x[:, 0] + added) @ tower.proj


@pytest.mark.parametrize("blocks", [None, 1])
def test_inference_is_the_specification_with_the_running_alpha(
    clip: Any, blocks: int | None
) -> None:
    model = capt(clip, blocks)
    randomise(model)
    with torch.no_grad():
        torch.testing.assert_close(
            model(photos()), reference_features(clip, model, photos(), ALPHA)
        )
        model.running_alpha.fill_(1.5)
        torch.testing.assert_close(model(photos()), reference_features(clip, model, photos(), 1.5))


def test_every_image_has_its_own_alpha(clip: Any) -> None:
    model = capt(clip)
    randomise(model)
    alphas = [0.5, 2.0, 3.0, 5.0]
    with torch.no_grad():
        found, _ = model.features(model.frozen_prefix(photos()), torch.tensor(alphas))
        for row, alpha in enumerate(alphas):
            expected = reference_features(clip, model, photos()[[row]], alpha)[0]
            torch.testing.assert_close(found[row], expected)


def test_inference_repeats_and_does_not_depend_on_the_mode(clip: Any) -> None:
    model = capt(clip)
    randomise(model)
    with torch.no_grad():
        first = model.eval()(photos())
        assert torch.equal(model(photos()), first)
        assert torch.equal(model.train()(photos()), first)


def test_the_tower_is_used_but_not_owned(clip: Any) -> None:
    model = capt(clip)
    frozen = {id(value) for value in clip.parameters()}
    assert not frozen & {id(value) for value in model.parameters()}
    assert model.tower is clip.visual
    parts = {name.split(".")[0] for name in model.state_dict()}
    assert parts == {"adapters", "experts", "running_alpha", "alpha_steps"}
    # Neither mode nor gradients of the tower change with the model's.
    model.train().requires_grad_(True)
    assert not clip.visual.training
    assert not any(parameter.requires_grad for parameter in clip.parameters())


def train_steps(clip: Any, model: CaptModel, steps: int) -> None:
    """A few steps of the real objective on random images."""
    generator = torch.Generator().manual_seed(0)
    texts = functional.normalize(torch.randn(4, 24, generator=generator), dim=1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        images, _ = model.features(
            model.frozen_prefix(photos()), torch.tensor([1.0, 2.0, 3.0, 4.0]), generator
        )
        loss = confusion_loss(functional.normalize(images, dim=1), texts, torch.arange(4), 10.0)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


@pytest.mark.parametrize("blocks", [None, 2])
def test_training_changes_every_trainable_tensor_and_no_frozen_one(
    clip: Any, blocks: int | None
) -> None:
    model = capt(clip, blocks, active_experts=3)
    frozen = {name: value.clone() for name, value in clip.state_dict().items()}
    start = {name: value.clone() for name, value in model.named_parameters()}
    keys = list(model.state_dict())
    # The first step opens the residual gate; then gradients reach the experts behind it.
    train_steps(clip, model, 3)
    for name, value in clip.state_dict().items():
        assert torch.equal(value, frozen[name]), name
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, start[name]), name
    assert list(model.state_dict()) == keys
    for buffer in ("experts.commonality.centres", "experts.difference.centres"):
        assert torch.equal(model.get_buffer(buffer), capt(clip, blocks).get_buffer(buffer))


@pytest.mark.parametrize("blocks", [None, 1])
def test_gradients_reach_every_trainable_tensor(clip: Any, blocks: int | None) -> None:
    model = capt(clip, blocks, active_experts=3)
    with torch.no_grad():
        model.experts.residual_gate.fill_(0.5)
    features, _ = model.features(model.frozen_prefix(photos()), torch.full((4,), 2.0))
    features.square().sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name


def test_nothing_trains_before_the_first_adapted_block(clip: Any) -> None:
    model = capt(clip, 1)
    prefix = model.frozen_prefix(photos())
    assert not prefix.requires_grad
    assert prefix.shape == (4, 17, 32)


def test_no_parameter_appears_or_vanishes_in_forward(clip: Any) -> None:
    model = capt(clip)
    before = [(name, value.shape) for name, value in model.state_dict().items()]
    model(photos(2))
    model.features(model.frozen_prefix(photos()), torch.ones(4), torch.Generator())
    assert [(name, value.shape) for name, value in model.state_dict().items()] == before


def test_the_running_alpha_is_a_moving_mean(clip: Any) -> None:
    model = capt(clip)
    assert float(model.running_alpha) == ALPHA
    # The first step replaces the start, the second counts half; then 1 - momentum holds.
    for alphas, expected in (
        ([1.0, 3.0], 2.0),
        ([], 2.0),
        ([4.0], 3.0),
        ([6.0], 0.6 * 3 + 0.4 * 6),
        ([8.0], 0.6 * 4.2 + 0.4 * 8),
    ):
        model.observe_alpha(torch.tensor(alphas), momentum=0.6)
        assert float(model.running_alpha) == pytest.approx(expected)
    assert "running_alpha" in model.state_dict()
    assert "running_alpha" not in dict(model.named_parameters())


def test_a_saved_state_comes_back(clip: Any) -> None:
    model, other = capt(clip), capt(clip, seed=8)
    randomise(model)
    model.observe_alpha(torch.tensor([1.0]), 0.5)
    state = save_state(model)
    assert all(value.is_contiguous() and not value.requires_grad for value in state.values())
    with torch.no_grad():
        assert not torch.equal(other(photos()), model(photos()))
        load_state(other, state)
        assert torch.equal(other(photos()), model(photos()))


def test_starts_follow_the_seed_and_nothing_else(clip: Any) -> None:
    torch.manual_seed(1)
    one = capt(clip, seed=4).state_dict()
    torch.manual_seed(2)
    again = capt(clip, seed=4).state_dict()
    other = capt(clip, seed=5).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_resnet_tower_is_refused() -> None:
    clip: Any = small_clip(layers=(1, 1, 1, 1), width=8, head_width=8)
    with pytest.raises(CaptError, match="ModifiedResNet is no vision transformer"):
        capt(clip)


def test_a_tower_without_a_class_token_is_refused() -> None:
    clip: Any = small_clip(pool_type="avg")
    with pytest.raises(CaptError, match="class token"):
        capt(clip)
    with pytest.raises(CaptError, match="SimpleNamespace"):
        check_tower(SimpleNamespace(pool_type="tok"))


@pytest.mark.parametrize("size", [(32, 40), (16, 64), (64, 16)])
def test_a_grid_that_is_not_square_is_refused(size: tuple[int, int]) -> None:
    # 16 x 64 pixels make 2 x 8 patches: as many as 4 x 4, but no square.
    with pytest.raises(CaptError, match="square"):
        capt(small_clip(size))


def test_mixed_precision_gives_nearly_the_same_features(clip: Any) -> None:
    model = capt(clip)
    randomise(model)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(photos())
    with torch.no_grad():
        exact = model(photos())
    cosines = functional.cosine_similarity(rough.float(), exact, dim=1)
    assert bool((cosines > 0.99).all())
    assert all(value.dtype == torch.float32 for value in model.parameters())


def test_all_modules_of_the_model_are_named(clip: Any) -> None:
    model = capt(clip)
    assert isinstance(model.adapters, nn.ModuleDict)
    trainable = {name for name, _ in model.named_parameters()}
    assert {f"adapters.{block}.kernel" for block in range(BLOCKS)} <= trainable
    assert {"experts.router", "experts.residual_gate"} <= trainable
