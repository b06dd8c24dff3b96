"""CAPT's class texts, retention and share of what was learnt, in the methods compared with it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone
from capt_core.methods.classes import Classes
from capt_core.methods.clip_adapter import AdaptedByBottleneck
from capt_core.methods.clip_lora import DescribedLowRankClip, LowRankClip
from capt_core.methods.descriptions import (
    described_vectors,
    retained_prompts,
    retained_texts,
    training_texts,
)
from capt_core.methods.fitting import fit_method
from capt_core.methods.low_rank import LowRankUpdate
from capt_core.methods.method import Fitted
from capt_core.methods.registry import method_class
from capt_core.methods.retention import RetentionNames, distillation_loss
from capt_core.methods.task import Task
from capt_core.methods.tip_adapter import Cached
from tests.methods.toy_task import labels_of, quick


def base_images(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels of the few-shot images."""
    assert task.features is not None
    rows = [index for index in range(24) if index % 4 < 2]
    return task.features()[rows], labels_of(task.dataset)[rows]


def vectors_of(task: Task) -> torch.Tensor:
    """CAPT's texts of the two base classes."""
    plain = Fitted(method_class("clip")(), task.backbone)
    return torch.stack([*described_vectors(task, plain, 1.0).values()])


def test_the_loss_is_that_of_the_class_texts_and_the_retention(task: Task) -> None:
    settings: dict[str, Any] = {"batch_size": 12, "epochs": 1, "retention_weight": 3.0}
    method = quick("clip_adapter_prompts", **settings, retention_names="prompts")
    run = fit_method(method, task).fitted.training_run
    assert run is not None
    features, labels = base_images(task)
    scale = task.backbone.logit_scale
    with torch.no_grad():
        moved = AdaptedByBottleneck(method, task.backbone, features.shape[1], 1).adapt(features)
    original = functional.cross_entropy(scale * moved @ vectors_of(task).T, labels)
    words = retained_texts(task, encode_texts(task.dataset.prompts, task.backbone), "prompts")
    kept = distillation_loss(moved, features, words, scale)
    assert run.log["original_loss"][0] == pytest.approx(original.item(), rel=1e-5)
    assert run.log["retention_loss"][0] == pytest.approx(kept.item(), rel=1e-4)
    assert run.log["loss"][0] == pytest.approx((original + 3 * kept).item(), rel=1e-5)
    assert kept > 0


def test_a_share_of_the_bottleneck_by_hand(backbone: Backbone) -> None:
    # f = (3, 4) gives A(f) = (0, 14), as in the test of the formula. Half of ratio 0.5 is 0.25:
    # 0.25 (0, 14) + 0.75 (3, 4) = (2.25, 6.5), the mean of (1.5, 9) and f.
    method = quick("clip_adapter_prompts", reduction=1, ratio=0.5, interpolation=0.5)
    weights = {
        "down.weight": torch.tensor([[1.0, -1.0], [1.0, 1.0]]),
        "up.weight": torch.tensor([[5.0, -1.0], [0.0, 2.0]]),
    }
    found = method.restore(backbone, weights, {})
    with torch.no_grad():
        moved = found.adapt(torch.tensor([[3.0, 4.0]]))
    assert moved.tolist()[0] == pytest.approx(
        [2.25 / math.hypot(2.25, 6.5), 6.5 / math.hypot(2.25, 6.5)]
    )


def test_a_share_of_how_far_keys_moved(task: Task) -> None:
    method = quick("tip_adapter_f_prompts", interpolation=0.25, alpha=1.0, beta=5.5)
    start, _ = base_images(task)
    found = fit_method(method, task).fitted
    whole = fit_method(quick("tip_adapter_f_prompts", interpolation=1.0, alpha=1.0, beta=5.5), task)
    assert isinstance(found, Cached)
    assert isinstance(whole.fitted, Cached)
    torch.testing.assert_close(found.keys - start, (whole.fitted.keys - start) / 4)
    assert not torch.equal(whole.fitted.keys, start)
    # The keys are trained beside the logits of CAPT's class texts.
    texts = found.class_texts(Classes.of(task.dataset))
    torch.testing.assert_close(texts[:2], vectors_of(task))
    plain = fit_method(quick("tip_adapter_f", alpha=1.0, beta=5.5), task).fitted
    assert isinstance(plain, Cached)
    assert not torch.equal(whole.fitted.keys, plain.keys)


def test_a_share_of_an_update() -> None:
    update = LowRankUpdate(3, 2, rank=1, alpha=2.0).requires_grad_(False)
    update.up[:] = torch.tensor([[1.0], [-2.0]])
    before = update.weight()
    update.interpolate(0.25)
    torch.testing.assert_close(update.weight(), before / 4)


def low_rank(task: Task, **settings: Any) -> LowRankClip:
    """After three optimiser steps."""
    method = quick("clip_lora_prompts", dropout=0.0, learning_rate=0.02, **settings)
    found = fit_method(method, replace(task, shots=3)).fitted
    assert isinstance(found, DescribedLowRankClip)
    return found


def test_low_rank_updates_start_from_the_texts_and_predictions(task: Task) -> None:
    found = low_rank(task, batch_size=4, retention_names="prompts")
    run = found.training_run
    assert run is not None
    # Both towers are the frozen ones at the first step: nothing to hold back yet.
    assert run.log["retention_loss"][0] == pytest.approx(0, abs=1e-5)
    assert run.log["retention_loss"][-1] > 1e-4
    expected = run.log["original_loss"] + 4 * run.log["retention_loss"]
    assert run.log["loss"].to_list() == pytest.approx(expected.to_list(), rel=1e-4)


def test_texts_of_a_tuned_tower_are_moved_as_those_of_a_frozen_one(task: Task) -> None:
    found = low_rank(task)
    classes = Classes.of(task.dataset)
    plain = encode_texts(classes.prompts, task.backbone)
    tuned = encode_texts(classes.prompts, found.tuned)
    moved = training_texts(task, 1.0)
    torch.testing.assert_close(moved(plain[:2]), vectors_of(task))
    torch.testing.assert_close(found.class_texts(classes)[:2], moved(tuned[:2]))
    torch.testing.assert_close(found.class_texts(classes)[2:], tuned[2:])
    assert not torch.allclose(tuned, plain, atol=1e-4)
    assert torch.equal(training_texts(task, 0.0)(plain), plain)


def test_a_share_of_low_rank_updates_is_kept(task: Task) -> None:
    whole = low_rank(task, interpolation=1.0)
    half = low_rank(task, interpolation=0.5)
    for name, attention in half.updated().items():
        frozen = attention._attention[0].in_proj_weight
        moved = whole.updated()[name].merged_weight() - frozen
        torch.testing.assert_close(attention.merged_weight() - frozen, moved / 2)


@pytest.mark.parametrize("names", ["training", "all", "generic", "prompts"])
def test_what_is_retained_in_words_and_vectors(names: RetentionNames, task: Task) -> None:
    plain = encode_texts(task.dataset.prompts, task.backbone)
    found = encode_texts(retained_prompts(task, names), task.backbone)
    torch.testing.assert_close(found, retained_texts(task, plain, names))


def test_tuned_texts_are_part_of_the_tuned_prediction() -> None:
    # The image stays, the texts change places: 3/4 and 1/4 become 1/4 and 3/4.
    texts = torch.eye(2, dtype=torch.float64)
    found = distillation_loss(texts[[0]], texts[[0]], texts, math.log(3), texts.flip(0))
    assert float(found) == pytest.approx(0.5 * math.log(3))
