"""What training leaves behind: the running alpha, interpolation, and the model on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Never

import pytest
import torch
from torch import nn
from torch.nn import functional

from capt_core.artifacts.provenance import Provenance
from capt_core.backbone.loading import Backbone
from capt_core.methods import registry
from capt_core.methods.capt.method import Capt, FittedCapt
from capt_core.methods.capt.model import CaptModel
from capt_core.methods.capt.settings import CaptSettings, Experts
from capt_core.methods.classes import Classes
from capt_core.methods.clip import Clip
from capt_core.methods.coop import CoOp, LearnedContext
from capt_core.methods.image_tower import ImageTower, PromptedTower
from capt_core.methods.method import Fitted, Method
from capt_core.methods.model_file import load_model
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from tests import paper_preset
from tests.methods.capt.reference import capt_model, normal, photos, randomise
from tests.methods.capt.toy import toy_backbone

ALPHAS = torch.tensor([0.5, 2.0, 3.0, 5.0])


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


EVERY = [
    {"form": form, "parts": parts}
    for form, parts in product(("broadcast", "unsummed"), ("global_local", "local", "global"))
]


EXPERT_SETTINGS = [
    paper_preset.experts(granularities=[]),
    paper_preset.experts(granularities=["sample"]),
    paper_preset.experts(granularities=["commonality"]),
    paper_preset.experts(granularities=["difference", "sample"], active=1),
    paper_preset.experts(routing="mean"),
    paper_preset.experts(active=3, mask_rate=0.0),
]


class WithPrompts(Fitted):
    """CLIP with learned prompt tokens in its image tower."""

    frozen_tower = False

    def __init__(self, method: Method, backbone: Backbone, prompts: torch.Tensor) -> None:
        super().__init__(method, backbone)
        self.prompts = nn.Parameter(prompts)

    def image_tower(self) -> ImageTower:
        return PromptedTower(self.backbone.clip.visual, self.prompts)


class Prompted(Method):
    """A base model with visual prompts, as methods to come have them."""

    name, label = "prompted", "Prompted"

    def fit(self, task: Task) -> Never:
        raise AssertionError("it is restored, never fitted")

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> WithPrompts:
        return WithPrompts(self, backbone, tensors["prompts"])


CLASSES = Classes.named(["striped", "dotted", "cracked"])


def trained_model(
    base: Fitted, model: CaptModel, class_vectors: Mapping[str, torch.Tensor] | None = None
) -> TrainedModel:
    """CAPT's model around a base model, as `fit_method` gives it."""
    settings = CaptSettings(adapter=model.adapter_settings, experts=model.experts_settings)
    fitted = FittedCapt(Capt(settings), base, model, class_vectors)
    origin = Provenance("toy", "images", base.backbone.identity)
    return TrainedModel(fitted, CLASSES, "base only", 1, origin)


def comes_back(folder: Path, model: CaptModel, base: Fitted) -> None:
    before = trained_model(base, model)
    before.save(folder / "model.safetensors")
    fitted = load_model(folder / "model.safetensors", base.backbone).fitted
    assert isinstance(fitted, FittedCapt)
    assert fitted.base.method.name == base.method.name
    assert fitted.method.settings == before.fitted.method.settings
    state = before.fitted.state_dict()
    found = fitted.state_dict()
    assert list(found) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in found.items())
    with torch.no_grad():
        assert torch.equal(fitted.encode(photos()), model(photos()))


@pytest.fixture(scope="module")
def plain(clip: Any) -> Fitted:
    return Fitted(Clip(), replace(toy_backbone(), clip=clip))


@pytest.mark.parametrize("settings", EVERY, ids=lambda settings: "-".join(settings.values()))
def test_a_model_of_any_adapter_is_rebuilt_and_interpolated_back(
    tmp_path: Path, clip: Any, plain: Fitted, settings: dict[str, Any]
) -> None:
    model = trained(clip, **settings)
    comes_back(tmp_path, model, plain)
    with torch.no_grad():
        learnt = model(photos())
        model.interpolate(1.0)
        assert torch.equal(model(photos()), learnt)
        # By nothing: the base model.
        model.interpolate(0.0)
        frozen = clip.encode_image(photos())
        assert torch.equal(model(photos()), frozen)
        tokens = model.frozen_prefix(photos())
        assert torch.equal(model.features(tokens, ALPHAS)[0], frozen)


@pytest.mark.parametrize("blocks", ["all", 0, 2, [0, 2]], ids=str)
@pytest.mark.parametrize("experts", EXPERT_SETTINGS, ids=lambda e: str(e.granularities))
def test_a_model_of_any_experts_is_rebuilt(
    tmp_path: Path, clip: Any, plain: Fitted, blocks: Any, experts: Experts
) -> None:
    model = trained(clip, blocks=blocks, experts=experts, scale=3.0, kernel_size=5)
    comes_back(tmp_path, model, plain)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_model_with_visual_prompts_is_rebuilt(
    tmp_path: Path, clip: Any, plain: Fitted, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._registered, "prompted", Prompted)
    prompts = normal(depth, 2, 32).float()
    base = WithPrompts(Prompted(), plain.backbone, prompts)
    comes_back(tmp_path, trained(clip, visual_prompts=prompts), base)


def test_a_model_on_a_learned_context_scores_images_as_before(
    tmp_path: Path, backbone: Backbone
) -> None:
    width = backbone.clip.token_embedding.embedding_dim
    base = LearnedContext(CoOp(), backbone, normal(2, width).float())
    described = {"dotted": functional.normalize(normal(128).float(), dim=0)}
    model = trained_model(base, trained(backbone.clip), described)
    images = photos(3, backbone.preprocess.size)
    model.save(tmp_path / "model")
    with torch.no_grad():
        scores = model(images)
        again = load_model(tmp_path / "model", backbone)
        assert torch.equal(again(images), scores)
        # The class that something is written about is compared with that, the others with CoOp's.
        plain = trained_model(base, trained(backbone.clip))(images)
        assert torch.equal(plain[:, [0, 2]], scores[:, [0, 2]])
        assert not torch.equal(plain[:, 1], scores[:, 1])
    assert (again.class_names, again.sees, again.seed) == (CLASSES.names, "base only", 1)
