"""CAPT around a frozen tower: what it leaves alone, what it computes and what it trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from capt_core.methods.capt.experts import Masks
from capt_core.methods.capt.model import CaptModel
from tests import paper_preset
from tests.methods.capt.reference import capt_model, photos, randomise
from tests.toys import small_clip

ALPHA = 5.0
ALPHAS = torch.tensor([0.5, 2.0, 3.0, 5.0])

WITHOUT_EXPERTS = paper_preset.experts(granularities=[])


def draw(model: CaptModel, rows: int = 4, seed: int = 0) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    return Masks.draw(len(model.experts.names), rows, model.width, 0.3, generator)


def kernels(model: CaptModel) -> list[nn.Parameter]:
    return [adapter.get_parameter("kernel") for adapter in model.adapters.values()]


@pytest.mark.parametrize("blocks", ["all", 3, 2, 1, 0, [0], [0, 2], []], ids=str)
def test_step_0_is_the_frozen_tower_bit_for_bit(clip: Any, blocks: Any) -> None:
    model = capt_model(clip, blocks)
    with torch.no_grad():
        frozen = clip.encode_image(photos())
        assert torch.equal(model(photos()), frozen)
        # In training as well: kernels and the residual gate are zero, whatever is masked.
        model.train()
        tokens = model.frozen_prefix(photos())
        trained, gates = model.features(tokens, ALPHAS, draw(model))
        assert torch.equal(trained, frozen)
    assert gates.shape == (4, 3)


@pytest.mark.parametrize("form", ["broadcast", "unsummed"])
@pytest.mark.parametrize("parts", ["global_local", "local", "global"])
def test_every_setting_starts_as_the_tower_and_acts_after_it(
    clip: Any, form: str, parts: str
) -> None:
    model = capt_model(clip, experts=WITHOUT_EXPERTS, form=form, parts=parts)
    with torch.no_grad():
        frozen = clip.encode_image(photos())
        assert torch.equal(model(photos()), frozen)
        tokens = model.frozen_prefix(photos())
        assert torch.equal(model.features(tokens, ALPHAS)[0], frozen)
        for kernel in kernels(model):
            kernel.fill_(0.1)
        # The features of every image move.
        assert not torch.isclose(model(photos()), frozen).all(dim=1).any()
        assert not torch.isclose(model.features(tokens, ALPHAS)[0], frozen).all(dim=1).any()


@pytest.mark.parametrize(
    "tower",
    [
        {"final_ln_after_pool": True},
        {"no_ln_pre": True},
        {"ls_init_value": 0.5},
        {"patch_dropout": 0.5},
        {"pos_embed_type": "sin_cos_2d"},
        {"attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2},
    ],
    ids=lambda tower: str(next(iter(tower))),
)
def test_other_vision_transformers(tower: dict[str, Any]) -> None:
    clip: Any = small_clip(**tower)
    model = capt_model(clip)
    with torch.no_grad():
        frozen = clip.encode_image(photos())
        assert torch.equal(model(photos()), frozen)
        randomise(model)
        tokens = model.frozen_prefix(photos())
        assert torch.equal(model.base_features(tokens), frozen)
        found, _ = model.features(tokens, ALPHAS)
        assert not torch.isclose(found, frozen).all(dim=1).any()
        quick, _ = model.features(tokens, ALPHAS, class_token_only=True)
        torch.testing.assert_close(quick, found, rtol=1e-5, atol=1e-6)


def reference_context(adapter: Any, block: Any, z: torch.Tensor) -> Any:
    """X-hat of eq. 10 from normalised tokens, by calls of the attention alone."""
    settings = adapter.settings
    attention = block.attn
    patches = z[:, 1:]
    if settings.parts == "local":
        return patches
    g, weights = attention(z[:, :1], patches, patches, average_attn_weights=False)
    if settings.parts == "global":
        return g.expand_as(patches)
    if settings.form == "broadcast":
        return patches + g
    to_value, bias = attention.in_proj_weight[64:], attention.in_proj_bias[64:]
    shares = weights[:, :, 0].repeat_interleave(16, dim=1).transpose(1, 2)
    terms = shares * functional.linear(patches, to_value, bias)
    out = attention.out_proj
    return functional.linear(terms, out.weight) + out.bias / patches.shape[1]


def reference_features(clip: Any, model: CaptModel, images: torch.Tensor, alpha: float) -> Any:
    """The whole forward pass, spelled out on the tower's parts."""
    tower = clip.visual
    x = tower._embeds(images)
    for index, block in enumerate(tower.transformer.resblocks):
        if str(index) in model.adapters:
            adapter = model.adapters[str(index)]
            context = reference_context(adapter, block, block.ln_1(x))
            kernel = adapter.get_parameter("kernel")
            grid = context.transpose(1, 2).reshape(-1, 32, 4, 4)
            detail = functional.conv2d(grid, kernel, padding="same", groups=32).flatten(2)
            x = torch.cat([x[:, :1], x[:, 1:] + alpha * detail.transpose(1, 2)], dim=1)
        x = block(x)
    last = tower.transformer.resblocks[-1]
    added, _ = model.experts(last.ln_2(x[:, 0]))
    return tower.ln_post(x[:, 0] + added) @ tower.proj


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"blocks": 1},
        {"blocks": [0, 2]},
        {"form": "unsummed"},
        {"kernel_size": 5},
        {"parts": "local"},
        {"parts": "global", "blocks": 2},
    ],
    ids=str,
)
def test_inference_is_the_specification_with_the_running_alpha(
    clip: Any, settings: dict[str, Any]
) -> None:
    model = capt_model(clip, **settings)
    randomise(model)
    with torch.no_grad():
        expected = reference_features(clip, model, photos(), ALPHA)
        torch.testing.assert_close(model(photos()), expected)
        model.running_alpha.fill_(1.5)
        torch.testing.assert_close(model(photos()), reference_features(clip, model, photos(), 1.5))


def test_every_image_has_its_own_alpha(clip: Any) -> None:
    model = capt_model(clip)
    randomise(model)
    with torch.no_grad():
        found, _ = model.features(model.frozen_prefix(photos()), ALPHAS)
        for row, alpha in enumerate(ALPHAS.tolist()):
            expected = reference_features(clip, model, photos()[[row]], alpha)[0]
            torch.testing.assert_close(found[row], expected)


@pytest.mark.parametrize("blocks", ["all", 2, 1, 0, [0, 2]], ids=str)
def test_the_prefix_leads_to_the_base_features_bit_for_bit(clip: Any, blocks: Any) -> None:
    model = capt_model(clip, blocks)
    randomise(model)
    with torch.no_grad():
        tokens = model.frozen_prefix(photos())
        assert torch.equal(model.base_features(tokens), clip.encode_image(photos()))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"blocks": 1},
        {"blocks": 0},
        {"blocks": [0]},
        {"form": "unsummed"},
    ],
    ids=str,
)
def test_leaving_out_what_is_not_read_changes_nothing(settings: dict[str, Any]) -> None:
    model = capt_model(small_clip().double(), **settings).double()
    randomise(model)
    masks = draw(model)
    tokens = model.frozen_prefix(photos().double())
    found: list[torch.Tensor] = []
    gradients: list[dict[str, torch.Tensor | None]] = []
    for quick in (False, True):
        model.zero_grad()
        features, _ = model.features(tokens, ALPHAS.double(), masks, class_token_only=quick)
        features.square().sum().backward()  # type: ignore[no-untyped-call]
        found.append(features.detach())
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-8, atol=1e-8)


def test_the_tower_is_used_but_not_owned(clip: Any) -> None:
    model = capt_model(clip)
    frozen = {id(value) for value in clip.parameters()}
    assert not frozen & {id(value) for value in model.parameters()}
    parts = {name.split(".")[0] for name in model.state_dict()}
    assert parts == {"adapters", "experts", "running_alpha", "alpha_steps"}
    # Neither mode nor gradients of the tower change with the model's.
    model.train().requires_grad_(True)
    assert not clip.visual.training
    assert not any(parameter.requires_grad for parameter in clip.parameters())


@pytest.mark.parametrize("blocks", ["all", 1])
@pytest.mark.parametrize("form", ["broadcast", "unsummed"])
@pytest.mark.parametrize("quick", [False, True])
def test_gradients_reach_every_trainable_tensor(
    clip: Any, blocks: Any, form: str, quick: bool
) -> None:
    model = capt_model(clip, blocks, experts=paper_preset.experts(active=3), form=form)
    randomise(model)
    features, _ = model.features(
        model.frozen_prefix(photos()), torch.full((4,), 2.0), class_token_only=quick
    )
    features.square().sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name


def test_starts_follow_the_seed_and_nothing_else(clip: Any) -> None:
    torch.manual_seed(1)
    one = capt_model(clip, seed=4).state_dict()
    torch.manual_seed(2)
    again = capt_model(clip, seed=4).state_dict()
    other = capt_model(clip, seed=5).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_mixed_precision_gives_nearly_the_same_features(clip: Any) -> None:
    model = capt_model(clip)
    randomise(model)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(photos())
    with torch.no_grad():
        exact = model(photos())
    cosines = functional.cosine_similarity(rough.float(), exact, dim=1)
    assert bool((cosines > 0.99).all())
    assert all(value.dtype == torch.float32 for value in model.parameters())
