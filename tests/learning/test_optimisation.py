"""Optimiser and batch order, apart from the loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from capt_core.learning.optimisation import (
    ParameterGroup,
    epoch_batches,
    make_optimizer,
    set_learning_rate,
)
from tests.learning.toy import optimisation


def groups() -> list[ParameterGroup]:
    return [ParameterGroup([nn.Parameter(torch.ones(1))], factor) for factor in (1.0, 4.0)]


def test_setting_a_rate_twice_does_not_compound() -> None:
    optimizer = make_optimizer(groups(), optimisation())
    for rate in (0.5, 0.5, 0.25):
        set_learning_rate(optimizer, rate)
        assert [group["lr"] for group in optimizer.param_groups] == [rate, 4 * rate]


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_settings_name_the_optimiser(name: str, kind: type[torch.optim.Optimizer]) -> None:
    settings = optimisation(optimizer=name, momentum=0.5, weight_decay=0.25)
    optimizer = make_optimizer(groups(), settings)
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.25]
    assert all(group.get("momentum", 0.5) == 0.5 for group in optimizer.param_groups)


@pytest.mark.parametrize(("count", "size", "sizes"), [(7, 3, [3, 3]), (2, 4, [2]), (4, 2, [2, 2])])
def test_batches_drop_an_incomplete_end(count: int, size: int, sizes: list[int]) -> None:
    batches = list(epoch_batches(count, size, seed=1, epoch=1))
    assert [len(batch) for batch in batches] == sizes
    drawn = [sample for batch in batches for sample in batch]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(count))


def test_the_order_follows_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [sample for batch in epoch_batches(20, 5, seed, epoch) for sample in batch]

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1) != order(2, 1)
