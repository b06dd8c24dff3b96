"""CoOp: the context stands where the words stood, and nothing but the context learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone
from capt_core.methods.coop import (
    CoOp,
    CoOpSettings,
    LearnedContext,
    context_features,
    encode_with_context,
    initial_context,
    readable_prompts,
    token_embedding,
)
from capt_core.methods.task import Task
from tests.methods.toy_task import NAMES, with_features
from tests.refusals import refusal
from tests.toys import small_clip

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


@pytest.mark.parametrize("custom_text", [False, True])
def test_the_embedded_words_give_the_text_of_the_words(custom_text: bool) -> None:
    clip: Any = small_clip(custom_text=custom_text)
    words = torch.tensor([[48, 7, 8, 9, 20, 49, 0, 0], [48, 7, 8, 9, 21, 22, 49, 0]])
    placeholders = words.clone()
    placeholders[:, 1:4] = 1
    context = token_embedding(clip)(words[:1])[0, 1:4]
    found = encode_with_context(clip, placeholders, context)
    assert torch.equal(found, clip.encode_text(words))
    assert not torch.equal(found, clip.encode_text(placeholders))
    # The tower is left as it was.
    assert torch.equal(clip.encode_text(words), found)


def test_the_initial_context_is_the_template_exactly(backbone: Backbone) -> None:
    context = initial_context(CoOpSettings(), backbone, seed=1)
    assert context.shape == (4, backbone.clip.token_embedding.weight.shape[1])
    expected = encode_texts([f"{WORDS} {name}." for name in NAMES], backbone)
    assert torch.equal(context_features(context, NAMES, backbone), expected)
    # Batches do not matter.
    torch.testing.assert_close(context_features(context, NAMES, backbone, 2), expected)


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


def test_prompts_for_people() -> None:
    assert readable_prompts(["striped"], 2) == ["[v1] [v2] striped."]


def test_what_cannot_be_learnt_is_refused(backbone: Backbone) -> None:
    empty = CoOpSettings(context_init=" ")
    assert "no words to start from" in refusal(initial_context, empty, backbone, 1)
    assert "shorten it" in refusal(context_features, torch.zeros(31, 4), NAMES, backbone)
    assert "no token embedding" in refusal(token_embedding, nn.Linear(2, 2))
