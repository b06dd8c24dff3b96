"""CoOp: the context stands where the words stood, and nothing but the context learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from capt_core import params
from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone, load_backbone
from capt_core.errors import CaptError
from capt_core.methods.coop import (
    context_features,
    encode_with_context,
    fit_context,
    initial_context,
    shown_prompts,
    token_embedding,
)
from capt_core.methods.fitting import FewShotFeatures
from tests.toys import small_clip

NAMES = ["striped", "polka-dotted", "banded"]
WORDS = "a photo of a"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(params.Backbone(), params.Runtime(device="cpu"))


def images(backbone: Backbone) -> FewShotFeatures:
    """Four images per class, scattered about the texts of the classes after the next one."""
    texts = encode_texts([f"{WORDS} {name}." for name in NAMES], backbone)
    labels = torch.arange(3).repeat(4)
    noise = torch.randn(12, texts.shape[1], generator=torch.Generator().manual_seed(0))
    return FewShotFeatures(
        functional.normalize(texts[(labels + 1) % 3] + 0.05 * noise, dim=1), labels
    )


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
    context = initial_context(params.Coop(), backbone, seed=1)
    assert context.shape == (4, backbone.clip.token_embedding.weight.shape[1])
    expected = encode_texts([f"{WORDS} {name}." for name in NAMES], backbone)
    assert torch.equal(context_features(context, NAMES, backbone), expected)
    # Batches do not matter.
    torch.testing.assert_close(context_features(context, NAMES, backbone, 2), expected)


def test_a_random_start_follows_the_seed(backbone: Backbone) -> None:
    settings = params.Coop(context_init=None, context_length=16)
    first = initial_context(settings, backbone, 1)
    assert first.shape[0] == 16
    assert torch.equal(first, initial_context(settings, backbone, 1))
    assert not torch.equal(first, initial_context(settings, backbone, 2))
    assert first.std().item() == pytest.approx(0.02, rel=0.1)


def test_one_step_goes_down_the_gradient(backbone: Backbone) -> None:
    few, rate = images(backbone), 0.01
    settings = params.Coop(
        epochs=1, learning_rate=rate, momentum=0.0, weight_decay=0.0, warmup_epochs=0
    )
    start = initial_context(settings, backbone, 1)
    context, _ = fit_context(few, NAMES, backbone, settings, seed=1)

    def loss(moved: torch.Tensor) -> float:
        texts = context_features(moved, NAMES, backbone).double()
        logits = backbone.logit_scale * few.features.double() @ texts.T
        return functional.cross_entropy(logits, few.labels).item()

    # The central difference along the step is minus the squared norm of the gradient.
    step = context - start
    slope = (loss(start + step / 2) - loss(start - step / 2)) / rate
    assert slope == pytest.approx(-(step / rate).square().sum().item(), rel=0.02)


def test_only_the_context_learns(backbone: Backbone) -> None:
    before = {name: value.clone() for name, value in backbone.clip.state_dict().items()}
    settings = params.Coop(epochs=20, batch_size=6)
    told: list[int] = []
    context, log = fit_context(images(backbone), NAMES, backbone, settings, 1, told.append)
    after = backbone.clip.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(value.requires_grad for value in backbone.clip.parameters())
    assert told == [1] * 20
    assert len(log) == 40
    assert log["loss"][-1] < 0.5 * log["loss"][0]
    again, _ = fit_context(images(backbone), NAMES, backbone, settings, 1)
    assert torch.equal(context, again)
    assert not torch.equal(context, fit_context(images(backbone), NAMES, backbone, settings, 2)[0])


def test_prompts_for_people() -> None:
    assert shown_prompts(["striped"], 2) == ["[v1] [v2] striped."]


def test_what_cannot_be_learnt_is_refused(backbone: Backbone) -> None:
    with pytest.raises(CaptError, match="no words to start from"):
        initial_context(params.Coop(context_init=" "), backbone, 1)
    context = torch.zeros(31, 4)
    with pytest.raises(CaptError, match="shorten it"):
        context_features(context, NAMES, backbone)
    with pytest.raises(CaptError, match="no token embedding"):
        token_embedding(nn.Linear(2, 2))
