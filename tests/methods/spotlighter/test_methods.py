"""Spotlighter and its plug-in: what learns, what is kept, and what they see."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from capt_core.errors import CaptError
from capt_core.methods.coop import ContextTexts
from capt_core.methods.fitting import base_method, fit_method
from capt_core.methods.frozen_teacher import FrozenTeacher
from capt_core.methods.spotlighter.method import Spotlighter, SpotlighterLoss
from capt_core.methods.spotlighter.plugin import SpotlighterPromptKD
from capt_core.methods.task import Task
from tests.methods.toy_task import quick
from tests.refusals import refusal

NAMES = ("spotlighter", "spotlighter_promptkd")


def state(name: str, task: Task, **settings: Any) -> dict[str, torch.Tensor]:
    return fit_method(quick(name, **settings), task).fitted.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_moves_with_every_step(name: str, task: Task) -> None:
    found = state(name, task, epochs=1)
    assert found["memory.updates"] == found["projector.bn.num_batches_tracked"] > 2


PARTS = {
    "image": 1.0,
    "divergence": 1.0,
    "top7": 2.0,
    "top2": 3.0,
    "low3": 5.0,
    "text_distance": 0.1,
    "image_distance": 0.2,
}


def test_the_weights_of_both_losses_by_hand(task: Task) -> None:
    # As published: 1 + (2 + 3 + 5) / 50 + 20 (0.1 + 0.2), and with K = 1000
    # K (1 + 2 / 100 + (3 + 5) / 1000 + 0.1 / 50 + 0.2 / 100).
    parts = {name: torch.tensor(value, dtype=torch.float64) for name, value in PARTS.items()}
    alone, plugin = Spotlighter(), SpotlighterPromptKD()
    fitted = alone.start(task.backbone, 1)
    loss = SpotlighterLoss(fitted, ContextTexts.of(["woven"], 4, task.backbone), 1)
    assert loss.total(parts).item() == pytest.approx(7.2)
    assert task.teacher is not None
    teacher = FrozenTeacher(task.teacher, torch.ones(4, 64))
    found = plugin.loss(task, plugin.start(task, teacher.texts), teacher)
    assert found.total(parts).item() == pytest.approx(1032.0)


def test_the_selection_matters(task: Task) -> None:
    first, second = (
        state("spotlighter", task, epochs=1, selection=each) for each in ("corrected", "released")
    )
    assert not torch.equal(first["context"], second["context"])


def test_the_plug_in_sees_what_it_says(task: Task) -> None:
    found = {}
    for data in ("transductive", "inductive"):
        method = quick("spotlighter_promptkd", data=data)
        assert isinstance(method, SpotlighterPromptKD)
        found[data] = method.images(task).sort().to_list(), method.classes(task)
        fitted = fit_method(quick("spotlighter_promptkd", data=data, epochs=1), task)
        said = "unlabelled few-shot images of all classes; names of all classes"
        assert (said in fitted.sees) == (data == "transductive")
    rows = {group: task.few_shot_rows(group=group)["sample_id"] for group in ("base", "novel")}
    assert found["inductive"] == (rows["base"].sort().to_list(), [0, 1])
    assert found["transductive"] == (sorted([*rows["base"], *rows["novel"]]), [0, 1, 2, 3])


def test_features_that_the_heads_cannot_share_are_refused(task: Task) -> None:
    assert "do not divide among 7 heads" in refusal(
        fit_method, quick("spotlighter_promptkd", attention_heads=7), task
    )


@pytest.mark.parametrize("name", NAMES)
def test_it_is_no_base_model(name: str) -> None:
    with pytest.raises(CaptError):
        base_method(name, "fit_teacher.method")
