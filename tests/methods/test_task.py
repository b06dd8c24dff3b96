"""What a task gives: the half and split that are asked for, and where a training is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import torch

from capt_core.methods.task import Task
from tests.methods.toy_task import quick
from tests.toys import toy_dataset


def test_only_the_asked_half_and_split_are_given(task: Task) -> None:
    dataset = toy_dataset([0, 3, 1, 2, 0], 4)  # base: c0, c1
    drawn = dataset.samples.with_columns(split=pl.Series(["train"] * 4 + ["val"])).reverse()
    features = torch.arange(5.0)[:, None]
    given = replace(task, dataset=dataset, fewshot=drawn, features=lambda: features)
    base = given.few_shot()
    assert (base.features[:, 0].tolist(), base.labels.tolist()) == ([2.0, 0.0], [1, 0])
    novel = given.few_shot(group="novel")
    assert (novel.features[:, 0].tolist(), novel.labels.tolist()) == ([3.0, 1.0], [2, 3])
    assert given.few_shot(split="val").labels.tolist() == [0]
    assert given.trained_classes == [0, 1]
    assert given.unlabelled().to_list() == [0, 1, 2, 3, 4]


def test_a_training_is_kept_under_all_that_it_depends_on(task: Task, tmp_path: Path) -> None:
    method = quick("coop")
    assert task.checkpoint(method) is None
    kept = replace(task, work=tmp_path, checkpoint_steps=5)
    others = [
        kept.checkpoint(method, "more"),
        kept.checkpoint(quick("coop", epochs=41)),
        replace(kept, seed=2).checkpoint(method),
        replace(kept, fewshot=kept.fewshot.head(4)).checkpoint(method),
        replace(kept, backbone=replace(kept.backbone, identity="x")).checkpoint(method),
    ]
    first = kept.checkpoint(method)
    assert first == kept.checkpoint(method)
    assert first is not None
    paths = {first.path, *(other.path for other in others if other is not None)}
    assert len(paths) == 6
    assert replace(kept, checkpoint_steps=0).checkpoint(method) is None
