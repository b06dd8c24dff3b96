"""CoOp: the context stands where the words stood, and nothing but the context learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone
from capt_core.methods.classes import Classes
from capt_core.methods.coop import (
    CoOp,
    CoOpSettings,
    LearnedContext,
    context_features,
    initial_context,
    readable_prompt,
)
from capt_core.methods.fitting import fit_method
from capt_core.methods.prompting.text import Position
from capt_core.methods.task import Task
from tests.methods.toy_task import NAMES, with_features
from tests.refusals import refusal

WORDS = "a photo of a"


def swapped(task: Task) -> tuple[Task, torch.Tensor, torch.Tensor]:
    """A task whose base images look like the other base class, its features and positions."""
    texts = encode_texts([f"{WORDS} {name}." for name in NAMES], task.backbone)
    labels = torch.tensor(task.dataset.samples["class_id"].to_list())
    noise = torch.randn(len(labels), texts.shape[1], generator=torch.Generator().manual_seed(0))
    features = functional.normalize(texts[labels ^ 1] + 0.05 * noise, dim=1)
    drawn = task.few_shot_rows()
    return (
        with_features(task, features),
        features[drawn["sample_id"].to_list()],
        torch.tensor(drawn["class_id"].to_list()),
    )


def fit(task: Task, **settings: Any) -> LearnedContext:
    return CoOp(CoOpSettings(**settings)).fit(task)


def test_the_initial_context_is_the_template_exactly(backbone: Backbone) -> None:
    context = initial_context(CoOpSettings(), backbone, seed=1)
    assert context.shape == (4, backbone.clip.token_embedding.weight.shape[1])
    expected = encode_texts([f"{WORDS} {name}." for name in NAMES], backbone)
    assert torch.equal(context_features(context, NAMES, backbone), expected)
    # Batches do not matter.
    torch.testing.assert_close(context_features(context, NAMES, backbone, batch_size=2), expected)


def test_a_random_start_follows_the_seed(backbone: Backbone) -> None:
    settings = CoOpSettings(context_init=None, context_length=16)
    first = initial_context(settings, backbone, 1)
    assert first.shape[0] == 16
    assert torch.equal(first, initial_context(settings, backbone, 1))
    assert not torch.equal(first, initial_context(settings, backbone, 2))
    assert first.std().item() == pytest.approx(0.02, rel=0.1)


def test_one_step_goes_down_the_gradient(task: Task) -> None:
    task, features, labels = swapped(task)
    backbone, rate = task.backbone, 0.01
    start = initial_context(CoOpSettings(), backbone, 1)
    moved = fit(
        task, epochs=1, learning_rate=rate, momentum=0.0, weight_decay=0.0, warmup_epochs=0
    ).context.detach()

    def loss(context: torch.Tensor) -> float:
        texts = context_features(context, NAMES[:2], backbone).double()
        logits = backbone.logit_scale * features.double() @ texts.T
        return functional.cross_entropy(logits, labels).item()

    # The central difference along the step is minus the squared norm of the gradient.
    step = moved - start
    slope = (loss(start + step / 2) - loss(start - step / 2)) / rate
    assert slope == pytest.approx(-(step / rate).square().sum().item(), rel=0.02)


def test_only_the_context_learns(task: Task) -> None:
    task, _, _ = swapped(task)
    found = fit(task, epochs=20, batch_size=6)
    assert [name for name, _ in found.named_parameters()] == ["context"]
    assert found.state_dict().keys() == {"context"}
    run = found.training_run
    assert run is not None
    assert len(run.log) == 40
    assert run.log["loss"][-1] < 0.5 * run.log["loss"][0]


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("end", "[v1] [v2] [v3] striped."),
        ("middle", "[v1] striped [v2] [v3]."),
        ("front", "striped [v1] [v2] [v3]."),
    ],
)
def test_prompts_for_people(position: Position, expected: str) -> None:
    assert readable_prompt("striped", 3, position) == expected


@pytest.mark.parametrize(
    ("position", "text"),
    [("end", "a photo of {}."), ("middle", "a {} photo of."), ("front", "{} a photo of.")],
)
def test_a_context_of_words_is_the_text_with_the_name_in_its_place(
    position: Position, text: str, backbone: Backbone
) -> None:
    settings = CoOpSettings(context_init="a photo of")
    context = initial_context(settings, backbone, 1)
    names = ["woven", "cracked stone"]
    expected = encode_texts([text.format(name) for name in names], backbone)
    found = context_features(context, names, backbone, position)
    torch.testing.assert_close(found, expected)


def test_a_context_of_each_class_leaves_other_classes_their_prompt(task: Task) -> None:
    task, _, _ = swapped(task)
    found = fit(task, epochs=3, class_specific=True, class_token_position="front")
    assert found.context.shape[:2] == (2, 4)
    assert not torch.equal(found.context[0], found.context[1])
    classes = Classes.of(task.dataset)
    texts, plain = found.class_texts(classes), encode_texts(classes.prompts, task.backbone)
    assert torch.equal(texts[2:], plain[2:])
    own = context_features(found.context[1:], ["cracked"], task.backbone, "front")
    torch.testing.assert_close(texts[1:2], own)
    assert found.readable_prompts(classes)[1:3] == [
        "cracked [v1] [v2] [v3] [v4].",
        classes.prompts[2],
    ]
    again = found.method.restore(task.backbone, found.state_dict(), found.facts())
    assert torch.equal(again.class_texts(classes), texts)


def test_augmented_images_replace_stored_features(task: Task) -> None:
    settings = {"epochs": 2, "batch_size": 4}
    method = CoOp(CoOpSettings(**settings, images="augmented"))  # type: ignore[arg-type]
    without = replace(task, features=None)
    assert "coop needs features" in refusal(fit_method, CoOp(CoOpSettings()), without)
    assert "coop needs pixels" in refusal(fit_method, method, replace(task, image_root=None))
    found = fit_method(method, without).fitted
    assert isinstance(found, LearnedContext)
    assert found.frozen_tower
    assert not torch.equal(found.context, fit(task, **settings).context)


def test_what_cannot_be_learnt_is_refused(backbone: Backbone) -> None:
    empty = CoOpSettings(context_init=" ")
    assert "no words to start from" in refusal(initial_context, empty, backbone, 1)
    assert "shorten it" in refusal(context_features, torch.zeros(31, 4), NAMES, backbone)
    assert "no token embedding" in refusal(CoOp().check_clip, nn.Linear(2, 2))
