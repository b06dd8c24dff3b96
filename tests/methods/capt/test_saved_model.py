"""What training leaves behind: the running alpha, interpolation, and tensors on disk."""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capt_core.methods.capt.model import (
    CaptModel,
    load_state,
    model_from_state,
    save_state,
    saved_shape,
)
from capt_core.methods.capt.settings import Experts
from tests import paper_preset
from tests.methods.capt.reference import capt_model, normal, photos, randomise
from tests.toys import small_clip

ALPHAS = torch.tensor([0.5, 2.0, 3.0, 5.0])


@pytest.fixture(scope="module")
def clip() -> Any:
    return small_clip()


def trained(clip: Any, **settings: Any) -> CaptModel:
    model = capt_model(clip, seed=8, **settings)
    randomise(model)
    model.observe_alpha(torch.tensor([1.0]), 0.5)
    return model


def test_the_running_alpha_is_a_moving_mean(clip: Any) -> None:
    model = capt_model(clip)
    assert float(model.running_alpha) == 5.0
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
    assert {"running_alpha", "alpha_steps"} <= set(model.state_dict())
    assert not {"running_alpha", "alpha_steps"} & set(dict(model.named_parameters()))


@cache
def without_adapters() -> CaptModel:
    return capt_model(small_clip(), 0)


@given(
    st.lists(st.lists(st.floats(0.05, 5.0), max_size=4), max_size=12),
    st.sampled_from([0.0, 0.5, 0.9, 0.99]),
)
def test_the_running_alpha_stays_among_what_was_seen(
    steps: list[list[float]], momentum: float
) -> None:
    model = without_adapters()
    model.running_alpha.fill_(5.0)
    model.alpha_steps.fill_(0)
    for alphas in steps:
        model.observe_alpha(torch.tensor(alphas), momentum)
    means = [sum(alphas) / len(alphas) for alphas in steps if alphas]
    running = float(model.running_alpha)
    if not means:
        assert running == 5.0
        return
    assert min(means) - 1e-5 <= running <= max(means) + 1e-5
    assert int(model.alpha_steps) == len(means)
    # As long as the steps are fewer than 1 / (1 - momentum), they count evenly.
    if len(means) <= 1 / (1 - momentum):
        assert running == pytest.approx(sum(means) / len(means), rel=1e-4)


@pytest.mark.parametrize(
    ("alpha", "used"),
    [
        ("dynamic", [0.5, 2.0, 3.0, 5.0]),
        ("constant", [4.0, 4.0, 4.0, 4.0]),
        ("learned", [1.25, 1.25, 1.25, 1.25]),
    ],
)
def test_the_alpha_that_adapters_use(clip: Any, alpha: str, used: list[float]) -> None:
    model = capt_model(clip, alpha=alpha, scale=4.0)
    randomise(model)
    assert (model.learned_alpha is not None) == (alpha == "learned")
    if model.learned_alpha is not None:
        with torch.no_grad():
            model.learned_alpha.fill_(1.25)
    assert model.used_alpha(ALPHAS).tolist() == used
    dynamic = capt_model(clip, scale=4.0)
    state = {name: value for name, value in save_state(model).items() if name != "learned_alpha"}
    load_state(dynamic, state)
    with torch.no_grad():
        tokens = model.frozen_prefix(photos())
        found, _ = model.features(tokens, ALPHAS)
        assert torch.equal(found, dynamic.features(tokens, torch.tensor(used))[0])
        # At inference as well; the running mean is of no use to the other two.
        model.running_alpha.fill_(2.0)
        dynamic.running_alpha.fill_(2.0 if alpha == "dynamic" else used[0])
        assert torch.equal(model(photos()), dynamic(photos()))


def test_a_learned_alpha_starts_from_the_scale(clip: Any) -> None:
    learned = capt_model(clip, alpha="learned", scale=3.0).learned_alpha
    assert learned is not None
    assert learned.requires_grad
    assert learned.item() == 3.0


EVERY = [
    {"form": form, "parts": parts, "attention": attention, "alpha": alpha}
    for form, parts, attention, alpha in product(
        ("broadcast", "unsummed", "swapped"),
        ("global_local", "local", "global"),
        ("frozen", "own"),
        ("dynamic", "constant", "learned"),
    )
]


@pytest.mark.parametrize("settings", EVERY, ids=lambda settings: "-".join(settings.values()))
def test_interpolation_by_nothing_gives_the_base_model_back(
    clip: Any, settings: dict[str, Any]
) -> None:
    model = trained(clip, **settings)
    with torch.no_grad():
        learnt = model(photos())
        model.interpolate(1.0)
        assert torch.equal(model(photos()), learnt)
        model.interpolate(0.0)
        frozen = clip.encode_image(photos())
        assert torch.equal(model(photos()), frozen)
        tokens = model.frozen_prefix(photos())
        assert torch.equal(model.features(tokens, ALPHAS)[0], frozen)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_interpolation_scales_what_is_added(clip: Any, share: float) -> None:
    # With an adapter at the first block's input only, its detail and the experts' output scale.
    whole, part = trained(clip, blocks=[0]), trained(clip, blocks=[0])
    part.interpolate(share)
    seen: list[torch.Tensor] = []
    for model in (whole, part):
        model.adapters["0"].register_forward_hook(lambda _, given, out: seen.append(out - given[0]))
        model.experts.register_forward_hook(lambda _, given, out: seen.append(out[0]))
    features = normal(4, 32).float()
    with torch.no_grad():
        for model in (whole, part):
            model.adapters["0"](
                model.frozen_prefix(photos()),
                ALPHAS,
                clip.visual.transformer.resblocks[0].ln_1,
                clip.visual.transformer.resblocks[0].attn,
            )
            model.experts(features)
    torch.testing.assert_close(seen[2], share * seen[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen[3], share * seen[1])


def test_a_saved_state_comes_back(clip: Any) -> None:
    model, other = trained(clip), capt_model(clip, seed=9)
    state = save_state(model)
    assert all(value.is_contiguous() and not value.requires_grad for value in state.values())
    with torch.no_grad():
        assert not torch.equal(other(photos()), model(photos()))
        load_state(other, state)
        assert torch.equal(other(photos()), model(photos()))


EXPERT_SETTINGS = [
    paper_preset.experts(granularities=[]),
    paper_preset.experts(granularities=["sample"]),
    paper_preset.experts(granularities=["commonality"], semantic_form="feed_forward"),
    paper_preset.experts(granularities=["difference", "sample"], active=1),
    paper_preset.experts(routing="mean"),
    paper_preset.experts(active=3, mask_rate=0.0),
]


def comes_back(clip: Any, model: CaptModel) -> None:
    # What `train` writes beside the tensors goes through JSON.
    shape = json.loads(json.dumps(saved_shape(model)))
    again = model_from_state(clip.visual, save_state(model), shape)
    assert again.adapter_settings == model.adapter_settings
    assert again.experts_settings == model.experts_settings
    state = model.state_dict()
    assert list(again.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    with torch.no_grad():
        assert torch.equal(again(photos()), model(photos()))


@pytest.mark.parametrize("settings", EVERY, ids=lambda settings: "-".join(settings.values()))
def test_a_model_of_any_adapter_is_rebuilt(clip: Any, settings: dict[str, Any]) -> None:
    comes_back(clip, trained(clip, **settings))


@pytest.mark.parametrize("blocks", ["all", 0, 2, [0, 2]], ids=str)
@pytest.mark.parametrize("experts", EXPERT_SETTINGS, ids=lambda e: str(e.granularities))
def test_a_model_of_any_experts_is_rebuilt(clip: Any, blocks: Any, experts: Experts) -> None:
    comes_back(clip, trained(clip, blocks=blocks, experts=experts, scale=3.0, kernel_size=5))


@pytest.mark.parametrize("depth", [1, 2])
def test_a_model_with_visual_prompts_is_rebuilt(clip: Any, depth: int) -> None:
    comes_back(clip, trained(clip, visual_prompts=normal(depth, 2, 32).float()))
