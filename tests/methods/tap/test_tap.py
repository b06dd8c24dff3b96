"""TAP: its pooling, its phases in turn, and that an interruption in either changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from capt_core.learning.loop import Loop
from capt_core.learning.randomness import generator
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import fit_method
from capt_core.methods.tap import model
from capt_core.methods.tap.model import AttributeClip, VisionExperts
from capt_core.methods.tap.settings import Phase, TapSettings, alternation
from capt_core.methods.tap.tower import with_experts
from capt_core.methods.tap.training import batch_classes, contrast, head_losses
from capt_core.methods.task import Task
from tests.methods.interrupted import resumed
from tests.methods.toy_task import quick, written_descriptions
from tests.refusals import refusal

VISION, TEXT = False, True


def learned(task: Task, **settings: Any) -> AttributeClip:
    found = fit_method(quick("tap", **settings), task).fitted
    assert isinstance(found, AttributeClip)
    return found


@pytest.fixture(scope="module")
def whole(task: Task) -> AttributeClip:
    """Learned without an interruption; not to be changed."""
    return learned(task)


def test_phases_take_turns() -> None:
    assert alternation(4, 2) == [
        *(Phase(VISION, 1), Phase(VISION, 2), Phase(TEXT, 1)),
        *(Phase(VISION, 3), Phase(VISION, 4), Phase(TEXT, 2)),
    ]
    assert [phase.text for phase in alternation(50, 10)] == ([VISION] * 5 + [TEXT]) * 10
    assert [phase.text for phase in alternation(1, 2)] == [VISION, TEXT, TEXT]
    # Of three vision epochs, 1.5 and 3 come first: 2 and 3.
    assert [phase.text for phase in alternation(3, 2)] == [VISION, VISION, TEXT, VISION, TEXT]


def test_each_phase_has_its_schedule() -> None:
    settings = TapSettings(
        epochs=4, text_epochs=2, learning_rate=2.0, text_learning_rate=1.0, warmup_learning_rate=0.1
    )
    side = math.sqrt(0.5)
    expected = [0.1, 2, 0.1, 1 + side, 1, 1]
    torch.testing.assert_close(torch.tensor(settings.rates), torch.tensor(expected))


def test_pooling_by_hand() -> None:
    # One head of two dimensions, one class of two sentences and an empty place. With the identity
    # as query and key the scores are 1 / sqrt 2 and 0 for the image (1, 0).
    eye, zero = torch.eye(2)[None], torch.zeros(1, 2)
    experts = VisionExperts(torch.zeros(0, 2), torch.zeros(0, 0, 2), eye, zero, eye, zero)
    sentences = torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]])
    used = torch.tensor([[[True, True, False]]])
    found = experts.pooled(torch.tensor([[[1.0, 0.0]]]), sentences, used)
    ratio = math.exp(1 / math.sqrt(2))
    expected = torch.tensor([ratio, 1.0]) / math.hypot(ratio, 1)
    torch.testing.assert_close(found[0, 0, 0], expected)


def test_heads_are_weighed_by_hand(whole: AttributeClip) -> None:
    # 0.4 x 1 + 0.6 x (2 + 4) / 2
    logits = torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    torch.testing.assert_close(whole.combined(logits), torch.tensor([[2.2]]))
    # Two classes at equal logits, and at a difference of ln 3 in favour of the right one.
    heads = torch.tensor([[[0.0, 0.0]], [[math.log(3), 0.0]]])
    losses = head_losses(heads, torch.tensor([0]))
    torch.testing.assert_close(losses, torch.tensor([math.log(2), math.log(4 / 3)]))


def test_the_contrast_by_hand() -> None:
    # Logits ln 2 x [[1, 0], [1, 0]]: rows give shares 2/3, 1/3, columns 1/2, 1/2.
    one, other = [1.0, 0.0], [0.0, 1.0]
    both = contrast(torch.tensor([one, one]), torch.tensor([one, other]), math.log(2))
    expected = [(math.log(1.5) + math.log(3)) / 2, math.log(2)]
    torch.testing.assert_close(torch.stack(both), torch.tensor(expected))


def test_classes_of_a_text_step() -> None:
    labels = torch.tensor([7, 2, 7])

    def chosen(count: int, most: int, step: int = 1) -> list[int]:
        return batch_classes(labels, count, most, generator("classes", step)).tolist()

    assert chosen(9, 9) == list(range(9))
    few = chosen(100, 5)
    assert len(set(few)) == 5
    assert few == sorted(few)
    assert {2, 7} < set(few)
    assert few != chosen(100, 5, step=2)
    assert chosen(100, 1) == [2, 7]  # a batch keeps its own


def test_experts_are_added_to_by_hand() -> None:
    tokens = torch.tensor([[1.0, 2.0, 3.0, 4.0]])[..., None]
    deep = torch.tensor([[[10.0], [20.0]]])
    assert with_experts(tokens, deep, 0) is tokens
    assert with_experts(tokens, deep, 1).flatten().tolist() == [1, 12, 23, 4]
    assert with_experts(tokens, deep, 2) is tokens


def test_each_phase_trains_its_own_side(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[tuple[int, bool, bool]] = []
    step = Loop._step

    def watched(loop: Loop, batches: Any, optimizer: Any) -> Any:
        context, *vision = loop.groups[0].parameters
        before = context.clone(), [value.clone() for value in vision]
        found = step(loop, batches, optimizer)
        side = any(not torch.equal(a, b) for a, b in zip(before[1], vision, strict=True))
        moved.append((batches[0].epoch, side, not torch.equal(before[0], context)))
        return found

    monkeypatch.setattr(Loop, "_step", watched)
    run = learned(task, text_classes=2).training_run
    assert {(epoch, side, text) for epoch, side, text in moved} == {
        *((1, True, False), (2, True, False), (3, False, True))
    }
    assert run is not None
    texts = run.log.filter(pl.col("epoch") == 3)
    assert texts["image_loss"].null_count() == len(texts)
    assert (texts["contrast_loss"] > 0).all()
    parts = ["cross_entropy_loss", "logits_loss", "image_loss", "contrast_loss"]
    total = run.log.select(pl.sum_horizontal(parts)).to_series()
    torch.testing.assert_close(total.to_torch(), run.log["loss"].to_torch(), rtol=1e-5, atol=1e-6)


def test_what_is_kept_is_each_sides_average(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, torch.Tensor] = {}
    step = Loop._step

    def watched(loop: Loop, batches: Any, optimizer: Any) -> Any:
        found = step(loop, batches, optimizer)
        seen[batches[0].epoch] = loop.groups[0].parameters[1].detach().clone()
        return found

    monkeypatch.setattr(Loop, "_step", watched)
    found = learned(task, gaussian_mean=1.0, gaussian_deviation=0.5)
    weight = math.exp(-0.5)  # of the first of two epochs, one deviation from the mean
    expected = (weight * seen[1] + seen[2]) / (1 + weight)
    torch.testing.assert_close(found.experts.tokens.detach(), expected)
    # The text phase behind the last vision epoch runs with the average.
    assert torch.equal(seen[3], found.experts.tokens)


@pytest.mark.parametrize("done", [4, 7])
def test_an_interrupted_training_ends_as_if_it_was_not(
    done: int, whole: AttributeClip, task: Task, tmp_path: Path
) -> None:
    # Nine steps: two vision epochs of three, then a text epoch.
    found = resumed(learned, task, tmp_path, done)
    for name, value in whole.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    assert whole.training_run is not None
    assert found.training_run is not None
    assert found.training_run.log.equals(whole.training_run.log)
    assert len(found.training_run.speed) == 9 - done


def test_features_are_those_of_the_heads_side_by_side(whole: AttributeClip, task: Task) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    heads = 1 + len(whole.attributes)
    assert whole.attributes == ("structure", "shape")
    features = whole.image_features(images)
    assert features.shape == (2, heads * task.backbone.clip.text_projection.shape[1])
    by_head = whole.by_head(features)
    torch.testing.assert_close(by_head.norm(dim=-1), torch.ones(2, heads))
    torch.testing.assert_close(by_head, whole.by_head(whole.encode(images)))
    classes = Classes.of(task.dataset)
    both = whole.logits(features, classes)
    assert both.shape == (2, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_AT_ONCE", 1)  # one image after the other
        torch.testing.assert_close(whole.logits(features, classes), both)
    assert whole.logits(features[:0], classes).shape == (0, 4)


def test_without_attributes_or_words_it_is_refused(task: Task) -> None:
    bare = written_descriptions().with_columns(attribute=pl.lit(None, dtype=pl.String))
    message = refusal(fit_method, quick("tap"), replace(task, class_descriptions=lambda: bare))
    assert "tap needs what is written about attributes of the trained classes, and" in message
    message = refusal(fit_method, quick("tap", context_init=None), task)
    assert "methods.tap.context_init: sentences need words before them" in message
