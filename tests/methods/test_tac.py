"""TAC: centres of descriptions, who attends to whom, its average, and what it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest
import torch
from torch.nn import functional

from capt_core.learning.loop import Loop
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import fit_method
from capt_core.methods.prompting.text import made_room
from capt_core.methods.tac import centres
from capt_core.methods.tac.centres import task_centres
from capt_core.methods.tac.method import TAC, TaskAwareLoss, Views, dropped
from capt_core.methods.tac.prompts import TaskAwarePrompts, centre_mask
from capt_core.methods.task import Task
from tests.methods.toy_task import quick, written_descriptions
from tests.refusals import refusal


def prompts(task: Task, **settings: Any) -> TaskAwarePrompts:
    found = fit_method(quick("tac", **settings), task).fitted
    assert isinstance(found, TaskAwarePrompts)
    return found


def test_centres_by_hand() -> None:
    points = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    centres, nearest = task_centres(points, points[[0, 3]])
    # By cosine the lengths do not matter; the means are of the points as they are.
    assert nearest.tolist() == [0, 0, 1, 1]
    assert centres.tolist() == [[3.0, 0.0], [0.0, 2.0]]


def test_a_centre_without_points_stays_where_it_is() -> None:
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    centres, nearest = task_centres(points, points)
    assert nearest.tolist() == [0, 0, 2]
    assert torch.equal(centres, points)


def test_rounds_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centres, "SHIFT", -1.0)  # never settled
    monkeypatch.setattr(centres, "MOST_ROUNDS", 3)
    points = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert task_centres(points, points[:3])[0].isfinite().all()


def test_patches_alone_do_not_see_the_centres() -> None:
    # Class token, two patches, one centre, one prompt.
    assert centre_mask(3, 1, 1).int().tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_room_in_a_text() -> None:
    tokens = torch.tensor([[7, 1, 2, 8, 0, 0, 0]])
    assert made_room(tokens, 2).tolist() == [[7, 7, 7, 1, 2, 8, 0]]


def test_what_dropout_keeps_is_scaled() -> None:
    features, kept = torch.tensor([[3.0, 3.0]]), torch.tensor([[True, False]])
    assert dropped(features, kept, 0.25).tolist() == [[4.0, 0.0]]
    assert dropped(features, None, 0.25) is features


def test_the_terms_by_hand(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two images in two views, the first view of both first; CE is over views [y, z, y, z].
    method = quick("tac")
    assert isinstance(method, TAC)
    fitted = method.start(task.backbone, torch.eye(64)[:2], 1)
    texts, knowledge = torch.eye(2), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.0, 1.0]])
    frozen = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(2, 1)
    monkeypatch.setattr(TaskAwareLoss, "features", lambda *_: (images, frozen, texts))
    views = Views(torch.zeros(0), torch.tensor([0, 1]), frozen[:2])
    parts = TaskAwareLoss(fitted, torch.zeros(0), knowledge).parts(views)
    scale = task.backbone.logit_scale
    told = scale * images
    expected = (told.logsumexp(dim=1) - told[range(4), [0, 1, 0, 1]]).mean()
    torch.testing.assert_close(parts["cross_entropy"], expected)
    assert parts["text"].item() == pytest.approx(20 * (0.4 + 0.8) / 4)
    assert parts["image"].item() == pytest.approx(25 * (0.4 + 0.8) / 8)


def test_the_log_holds_every_term(task: Task) -> None:
    found = prompts(task)
    assert found.training_run is not None
    log = found.training_run.log
    parts = ["cross_entropy_loss", "text_loss", "image_loss"]
    total = log.select(pl.sum_horizontal(parts)).to_series()
    torch.testing.assert_close(total.to_torch(), log["loss"].to_torch(), rtol=1e-5, atol=1e-6)
    clip = task.backbone.clip
    assert found.text.shape[:2] == (len(clip.transformer.resblocks), 5)
    assert found.image.shape[:2] == (len(clip.visual.transformer.resblocks), 5)
    names = Classes.named(["lined"])
    assert found.readable_prompts(names) == [
        "[c1] [c2] [v1] [v2] [v3] [v4] [v5] a photo of a lined."
    ]


def test_what_is_kept_is_the_mean_over_the_epochs(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def fit(loop: Loop) -> Any:
        add = loop.after_epoch

        def after_epoch(epoch: int) -> None:
            add(epoch)
            seen.append(loop.groups[0].parameters[0].detach().clone())

        loop.after_epoch = after_epoch
        return original(loop)

    original = Loop.fit
    monkeypatch.setattr(Loop, "fit", fit)
    found = prompts(task)
    torch.testing.assert_close(found.text.detach(), torch.stack(seen).mean(dim=0))


def test_classes_and_sentences_that_it_needs(task: Task) -> None:
    message = refusal(fit_method, quick("tac", centres=3), task)
    assert "tac needs 3 trained classes for its 3 centres, proctex has 2" in message
    novel = replace(task, class_descriptions=lambda: written_descriptions().filter(class_id=2))
    assert "tac needs sentences about its classes" in refusal(fit_method, quick("tac"), novel)


def test_a_class_that_nothing_is_written_about_counts_with_its_prompt(task: Task) -> None:
    method = quick("tac")
    assert isinstance(method, TAC)
    known = method.knowledge(task)
    texts = task.backbone.clip.encode_text(task.backbone.tokenizer([task.dataset.prompts[1]]))
    torch.testing.assert_close(known[1], functional.normalize(texts[0], dim=0))
    assert fit_method(method, task).sees == "descriptions of base classes (class texts)"


def test_a_name_that_leaves_no_room_is_refused(task: Task) -> None:
    found = prompts(task, epochs=1)
    long = Classes.named(["band " * 20])
    assert "tokens" in refusal(found.class_texts, long)
