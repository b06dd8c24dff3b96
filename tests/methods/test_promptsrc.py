"""PromptSRC: its terms, its average, and that both survive an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from capt_core.learning.loop import Loop
from capt_core.methods.fitting import fit_method
from capt_core.methods.promptsrc import IndependentPrompts
from capt_core.methods.task import Task
from tests.methods.interrupted import resumed
from tests.methods.toy_task import quick


def prompts(task: Task, **settings: Any) -> IndependentPrompts:
    found = fit_method(quick("promptsrc", **settings), task).fitted
    assert isinstance(found, IndependentPrompts)
    return found


def test_the_log_holds_every_term(task: Task) -> None:
    run = prompts(task).training_run
    assert run is not None
    parts = ["cross_entropy_loss", "text_loss", "image_loss", "logits_loss"]
    total = run.log.select(pl.sum_horizontal(parts)).to_series()
    torch.testing.assert_close(total.to_torch(), run.log["loss"].to_torch(), rtol=1e-5, atol=1e-6)
    assert (run.log.select(parts).to_numpy() > 0).all()


def test_depths_are_those_of_each_tower(task: Task) -> None:
    found = prompts(task)
    clip = task.backbone.clip
    assert found.text.shape[:2] == (len(clip.transformer.resblocks), 4)
    assert found.image_prompts().shape[:2] == (len(clip.visual.transformer.resblocks), 4)
    other = prompts(task, text_depth=2, image_depth=1, image_prompts=3, context_length=2)
    assert (other.text.shape[:2], other.image.shape[:2]) == ((2, 2), (1, 3))


def test_what_is_kept_is_the_average(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def fit(loop: Loop) -> Any:
        add = loop.after_epoch

        def after_epoch(epoch: int) -> None:
            add(epoch)
            seen.append(loop.groups[0].parameters[1].detach().clone())

        loop.after_epoch = after_epoch
        return original(loop)

    original = Loop.fit
    monkeypatch.setattr(Loop, "fit", fit)
    found = prompts(task, epochs=3, gaussian_mean=2.0, gaussian_deviation=1.0)
    side = torch.tensor(-0.5).exp()
    expected = (seen[0] + seen[2]) * side + seen[1]
    torch.testing.assert_close(found.image.detach(), expected / (1 + 2 * side))


@pytest.mark.parametrize("done", [1, 3, 5])
def test_an_interrupted_training_ends_as_if_it_was_not(
    done: int, task: Task, tmp_path: Path
) -> None:
    # Six steps; the third ends an epoch.
    whole, found = prompts(task), resumed(prompts, task, tmp_path, done)
    for name, value in whole.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    assert whole.training_run is not None
    assert found.training_run is not None
    assert found.training_run.log.equals(whole.training_run.log)
    assert len(found.training_run.speed) == 6 - done
