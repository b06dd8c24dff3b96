"""MaPLe: where its prompts start, and what of them learns."""

from __future__ import annotations

import torch
from torch.nn import functional

from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import fit_method
from capt_core.methods.maple import CoupledPrompts, Maple, MapleSettings
from capt_core.methods.task import Task
from tests.methods.toy_task import NAMES, quick
from tests.refusals import refusal


def start(backbone: Backbone, **settings: object) -> CoupledPrompts:
    return Maple(MapleSettings.model_validate(settings)).start(backbone, 1)


def test_at_depth_1_it_starts_from_the_words(backbone: Backbone) -> None:
    found = start(backbone, depth=1)
    expected = encode_texts([f"a photo of a {name}." for name in NAMES], backbone)
    assert torch.equal(found.class_texts(Classes.named(NAMES)), expected)
    assert found.prompts.shape[:2] == (1, 2)
    assert found.readable_prompts(Classes.named(["woven"])) == ["[v1] [v2] of a woven."]


def test_its_depth_ends_with_the_smaller_tower(backbone: Backbone) -> None:
    found = start(backbone)
    text, image = backbone.clip.transformer, backbone.clip.visual.transformer
    depth = min(len(text.resblocks), len(image.resblocks))
    assert len(found.prompts) == len(found.image_prompts()) == depth < 9
    assert 0.01 < found.prompts[1:].std() < 0.03
    # Deep couplings start alike, the first has a start of its own.
    weights = found.coupling_weights
    assert torch.equal(weights[1], weights[-1])
    assert not torch.equal(weights[0], weights[1])


def test_image_prompts_are_projections_of_text_prompts(backbone: Backbone) -> None:
    found = start(backbone)
    for index, prompt in enumerate(found.image_prompts()):
        layer = (found.coupling_weights[index], found.coupling_biases[index])
        assert torch.equal(prompt, functional.linear(found.prompts[index], *layer))


def test_all_of_it_learns(task: Task) -> None:
    method = quick("maple")
    assert isinstance(method, Maple)
    before = method.start(task.backbone, task.seed).state_dict()
    after = fit_method(method, task).fitted.state_dict()
    for name in ("prompts", "coupling_weights", "coupling_biases"):
        assert (before[name] - after[name]).abs().flatten(1).amax(dim=1).min() > 0


def test_more_vectors_than_words_are_refused_or_drawn(backbone: Backbone) -> None:
    assert "context_length: 6 vectors" in refusal(start, backbone, context_length=6)
    assert start(backbone, context_length=6, context_init=None).prompts.shape[1] == 6
