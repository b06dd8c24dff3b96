"""Tip-Adapter: its formula by hand and in a loop, the search, and what training its keys does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from capt_core.methods.classes import Classes
from capt_core.methods.fitting import fit_method
from capt_core.methods.task import Task
from capt_core.methods.tip_adapter import ALPHAS, BETAS, Cached, cache_logits, searched
from tests.methods.toy_task import NAMES, labels_of, quick


def test_the_cache_by_hand() -> None:
    # Cosines 1, 0.6 and 0 at beta 5: e^0 and e^-2 for the first class, e^-5 for the second.
    keys = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    values = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = cache_logits(torch.tensor([[1.0, 0.0]]), keys, values, 5.0)
    assert found.tolist()[0] == pytest.approx([1 + math.exp(-2), math.exp(-5)])


@given(st.integers(0, 999), st.floats(0.0, 20.0), st.integers(1, 4))
def test_it_is_a_sum_over_keys(seed: int, beta: float, classes: int) -> None:
    drawn = np.random.default_rng(seed)
    features, keys = drawn.normal(size=(3, 5)), drawn.normal(size=(7, 5))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    labels = drawn.integers(0, classes, 7)
    expected = np.zeros((3, classes))
    for image in range(3):
        for key in range(7):
            distance = ((features[image] - keys[key]) ** 2).sum() / 2  # 1 - cosine
            expected[image, labels[key]] += math.exp(-beta * distance)
    values = functional.one_hot(torch.from_numpy(labels), classes).double()
    found = cache_logits(torch.from_numpy(features), torch.from_numpy(keys), values, beta)
    np.testing.assert_allclose(found.numpy(), expected)


def test_the_search_by_hand() -> None:
    assert searched(1.1, 4) == pytest.approx([0.1, 0.35, 0.6, 0.85])
    assert (len(ALPHAS), len(BETAS)) == (20, 200)


def fit(task: Task, name: str = "tip_adapter", **settings: float | None) -> Cached:
    found = fit_method(quick(name, **settings), task).fitted
    assert isinstance(found, Cached)
    return found


def test_keys_are_the_few_shot_images(task: Task) -> None:
    assert task.features is not None
    found = fit(task, alpha=2.0, beta=3.0)
    base = [index for index in range(24) if index % 4 < 2]
    assert torch.equal(found.keys, task.features()[base])
    assert torch.equal(found.labels, labels_of(task.dataset)[base])
    assert found.names == NAMES[:2]
    assert (found.alpha, found.beta) == (2.0, 3.0)


@pytest.mark.parametrize("beta", [None, 1.5])
def test_the_likeliest_weights_are_chosen(task: Task, beta: float | None) -> None:
    assert task.features is not None
    labels = labels_of(task.dataset)
    val = [index for index in range(24, 32) if labels[index] < 2]
    features, templates = task.features()[val], Classes.of(task.dataset).templates
    base = Classes(NAMES[:2], templates[:2])
    zero_shot = fit_method(quick("clip"), task).fitted.logits(features, base)
    found = fit(task, beta=beta)
    values = functional.one_hot(found.labels, 2).float()
    losses = {}
    for sharpness in BETAS if beta is None else [beta]:
        cached = cache_logits(features, found.keys, values, sharpness)
        for alpha in ALPHAS:
            logits = (zero_shot + alpha * cached).double()
            losses[sharpness, alpha] = functional.cross_entropy(logits, labels[val]).item()
    assert (found.beta, found.alpha) == min(losses, key=lambda pair: losses[pair])


def test_training_moves_the_keys_and_nothing_else(task: Task) -> None:
    plain, weights = fit(task), {"alpha": 1.0, "beta": 5.5}
    trained = fit(task, "tip_adapter_f", **weights)
    run = trained.training_run
    assert run is not None
    assert not torch.equal(trained.keys, plain.keys)
    assert torch.equal(trained.labels, plain.labels)
    assert not trained.keys.requires_grad
    # The first loss is that of the untrained cache.
    assert task.features is not None
    base = [index for index in range(24) if index % 4 < 2]
    start = fit(task, "tip_adapter", **weights)
    whole = quick("tip_adapter_f", **weights, batch_size=12, epochs=1)
    first = fit_method(whole, task).fitted.training_run
    assert first is not None
    templates = Classes.of(task.dataset).templates
    logits = start.logits(task.features()[base], Classes(NAMES[:2], templates[:2]))
    expected = functional.cross_entropy(logits, labels_of(task.dataset)[base]).item()
    assert first.log["loss"][0] == pytest.approx(expected, rel=1e-5)
