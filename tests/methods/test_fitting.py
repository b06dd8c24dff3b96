"""The descent that the feature methods share, by hand."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import torch
from torch import nn

from capt_core.methods.fitting import descend, few_shot_features
from capt_core.params import Optimisation
from tests.toys import toy_dataset

PLAIN: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "warmup_epochs": 0}


def test_two_steps_by_hand() -> None:
    # Loss w^2 / 2 has gradient w: from 1 at rate 0.5 to 0.5; the cosine over two epochs halves
    # the second rate, 0.5 - 0.25 x 0.5 = 0.375.
    weight = nn.Parameter(torch.tensor(1.0))
    settings = Optimisation(epochs=2, learning_rate=0.5, **PLAIN)
    log = descend([weight], lambda _: weight**2 / 2, 1, settings, seed=0)
    assert weight.item() == pytest.approx(0.375)
    assert log.rows() == [(1, 1, 0.5, 0.5), (2, 2, pytest.approx(0.25), 0.125)]


@pytest.mark.parametrize(("count", "steps"), [(7, 3), (6, 3), (1, 1)])
def test_every_batch_is_full_and_holds_each_sample_once(count: int, steps: int) -> None:
    weight = nn.Parameter(torch.zeros(1))
    seen: list[list[int]] = []

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch.tolist())
        return weight.sum()

    settings = Optimisation(epochs=1, batch_size=2, **PLAIN)
    log = descend([weight], loss_of, count, settings, seed=3)
    assert len(log) == len(seen) == steps
    drawn = [index for batch in seen for index in batch]
    assert len(set(drawn)) == len(drawn) == steps * min(2, count)


def test_only_the_asked_half_and_split_are_given() -> None:
    dataset = toy_dataset([0, 3, 1, 2, 0], 4)  # base: c0, c1
    drawn = dataset.samples.with_columns(split=pl.Series(["train"] * 4 + ["val"])).reverse()
    features = torch.arange(5.0)[:, None]
    base = few_shot_features(dataset, drawn, features)
    assert (base.features[:, 0].tolist(), base.labels.tolist()) == ([2.0, 0.0], [1, 0])
    novel = few_shot_features(dataset, drawn, features, group="novel")
    assert (novel.features[:, 0].tolist(), novel.labels.tolist()) == ([3.0, 1.0], [2, 3])
    assert few_shot_features(dataset, drawn, features, split="val").labels.tolist() == [0]
