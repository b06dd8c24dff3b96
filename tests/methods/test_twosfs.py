"""2SFS: what each stage trains, what classes are compared with, and a kill in either stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from capt_core.backbone.encoding import encode_texts
from capt_core.learning.loop import Loop
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import fit_method
from capt_core.methods.task import Task
from capt_core.methods.twosfs import NormTunedClip, TwoStageSettings, TwoStageTraining, stage_rates
from tests.methods.interrupted import resumed
from tests.methods.toy_task import quick


def tuned(task: Task, **settings: Any) -> NormTunedClip:
    found = fit_method(quick("twosfs", **settings), task).fitted
    assert isinstance(found, NormTunedClip)
    return found


def test_each_stage_has_a_cosine_of_its_own() -> None:
    values = {"learning_rate": 3.0, "minimum_learning_rate": 1.0}
    settings = TwoStageSettings.model_validate(TwoStageSettings().model_dump() | values)
    first, second = stage_rates(settings, 7)
    assert first == pytest.approx([3.0, 2 + 0.5**0.5, 2.0, 2 - 0.5**0.5])  # int(0.6 * 7) = 4
    assert second == pytest.approx([3.0, 2.5, 1.5])


def test_norms_are_trained_first_and_then_the_classifier(task: Task) -> None:
    # Three steps of the first stage, two of the second.
    seen: list[tuple[bool, bool]] = []
    step = Loop._step

    def watched(loop: Loop, *arguments: Any) -> Any:
        training: Any = loop.module
        before = {name: value.clone() for name, value in training.state_dict().items()}
        record = step(loop, *arguments)
        changed = [
            name for name, value in training.state_dict().items() if (value != before[name]).any()
        ]
        seen.append(("classifier" in changed, any("norms" in name for name in changed)))
        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_step", watched)
        found = tuned(replace(task, shots=5))
    assert seen == [(False, True)] * 3 + [(True, False)] * 2
    assert set(found.norms) == {
        f"{tower}_block{block}_{norm}"
        for tower, blocks in (
            ("text", task.backbone.clip.transformer.resblocks),
            ("vision", task.backbone.clip.visual.transformer.resblocks),
        )
        for block in range(len(blocks))
        for norm in ("ln_1", "ln_2")
    }


def test_trained_classes_have_their_row_and_others_the_tuned_text(task: Task) -> None:
    found = tuned(replace(task, shots=5), learning_rate=0.01)
    assert found.vector_names == ("woven", "cracked")
    assert found.class_vectors is not None
    mixed = Classes.named(["dotted", "cracked", "velvet"], "{} texture.")
    texts = found.class_texts(mixed)
    torch.testing.assert_close(texts[1], found.class_vectors[1])
    spoken = ["a photo of a dotted.", "a photo of a cracked.", "a photo of a velvet."]
    own = encode_texts(spoken, found.tuned)
    assert torch.equal(texts[[0, 2]], own[[0, 2]])
    assert not torch.allclose(texts[1], own[1], atol=1e-3)
    assert not torch.allclose(own, encode_texts(spoken, task.backbone), atol=1e-3)


def test_the_classifier_starts_from_the_tuned_texts_and_is_normalised(task: Task) -> None:
    fitted = NormTunedClip(quick("twosfs"), task.backbone)
    tokens = task.backbone.tokenizer(["a photo of a woven.", "a photo of a cracked."])
    training = TwoStageTraining(fitted, tokens, 0)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = training.logits(images, 1)
    expected = encode_texts(["a photo of a woven.", "a photo of a cracked."], task.backbone)
    torch.testing.assert_close(training.classifier.detach(), expected)
    with torch.no_grad():
        training.classifier.mul_(3)
        torch.testing.assert_close(training.logits(images, 2), logits.detach())
    training.loss(images, torch.tensor([0, 1]), 2)[0].backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in fitted.parameters())
    gradient, row = training.classifier.grad, training.classifier.detach()
    assert gradient is not None
    # Only the direction of a row matters, so its gradient is across it.
    torch.testing.assert_close(
        (gradient * functional.normalize(row, dim=1)).sum(dim=1), torch.zeros(2), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_either_stage_alone(share: float, task: Task) -> None:
    found = tuned(replace(task, shots=2), first_stage=share)
    assert found.vector_names == (() if share else ("woven", "cracked"))
    spoken = ["a photo of a velvet."]
    same = torch.equal(encode_texts(spoken, found.tuned), encode_texts(spoken, task.backbone))
    assert same == (share == 0)


@pytest.mark.parametrize("done", [2, 3, 4])
def test_an_interrupted_training_ends_as_if_it_was_not(
    done: int, task: Task, tmp_path: Path
) -> None:
    task = replace(task, shots=5)  # three steps of the first stage, two of the second
    whole, found = tuned(task), resumed(tuned, task, tmp_path, done)
    assert whole.training_run is not None
    assert found.training_run is not None
    assert found.training_run.log.equals(whole.training_run.log)
    assert len(found.training_run.speed) == 5 - done
    for name, value in whole.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
