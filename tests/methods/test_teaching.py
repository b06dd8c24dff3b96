"""The teacher: which backbone and method it has, that it is fitted once, and what is refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from capt_core import params
from capt_core.artifacts.locks import exclusive
from capt_core.methods import teaching
from capt_core.methods.fitting import fit_method
from capt_core.methods.importing.model import UNKNOWN_IMAGES
from capt_core.methods.promptsrc import IndependentPrompts
from capt_core.methods.task import Task
from capt_core.methods.teaching import (
    check_teacher,
    fitted_teacher,
    teacher_backbone,
    teacher_method,
)
from capt_core.methods.trained import TrainedModel
from tests.methods.importing.dassl import state_of
from tests.methods.toy_task import NAMES, quick
from tests.refusals import refusal

STUDENT = params.Backbone()
QUICK = {"promptsrc": {"epochs": 1, "batch_size": 12, "templates": 1}}


def section(**changes: Any) -> params.Teacher:
    own = {"backbone": params.TeacherBackbone(name="tiny-clip"), "methods": QUICK}
    return params.Teacher(**{**own, **changes})


def fitted(task: Task, teacher: params.Teacher | None = None) -> TrainedModel:
    return fitted_teacher(teacher or section(), STUDENT, params.Runtime(device="cpu"), task)


@pytest.mark.parametrize(
    ("student", "given", "expected"),
    [
        ({}, {}, ("tiny-clip-teacher", None, None)),
        ({"name": "ViT-B-16", "pretrained": "openai"}, {}, ("ViT-L-14", None, "openai")),
        ({}, {"name": "tiny-clip"}, ("tiny-clip", None, None)),
        (
            {"name": "ViT-B-16", "checkpoint": "b.pt"},
            {"checkpoint": "l.pt"},
            ("ViT-L-14", "l.pt", None),
        ),
        (
            {"name": "ViT-B-16", "pretrained": "openai"},
            {"name": "ViT-H-14", "pretrained": "laion2b"},
            ("ViT-H-14", None, "laion2b"),
        ),
    ],
)
def test_its_backbone_follows_from_the_students(
    student: dict[str, str], given: dict[str, str], expected: tuple[str | None, ...]
) -> None:
    teacher = params.Teacher(backbone=params.TeacherBackbone(**given))
    found = teacher_backbone(teacher, params.Backbone(**student))
    assert (found.name, found.checkpoint, found.pretrained) == expected


def test_its_method_has_the_published_settings_for_larger_backbones() -> None:
    settings = teacher_method(params.Teacher()).settings
    assert (settings.learning_rate, settings.batch_size, settings.epochs) == (0.005, 8, 20)
    assert quick("promptsrc").settings.learning_rate == 0.0025


def test_it_is_fitted_once_for_a_draw(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    reporter = replace(task.reporter, say=said.append, warn=said.append)
    kept = replace(task, work=tmp_path, checkpoint_steps=1, reporter=reporter)
    first = fitted(kept)
    (path,) = (tmp_path / "teacher").iterdir()
    assert not list((tmp_path / "train").iterdir())
    whole = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(teaching, "fit_method", None)
        second = fitted(replace(kept, teacher=first.fitted))
    state = first.fitted.state_dict()
    assert all(
        torch.equal(value, state[name]) for name, value in second.fitted.state_dict().items()
    )
    path.write_bytes(whole[:-9])
    fitted(kept)
    assert path.read_bytes() == whole
    assert any("not what was written" in line and "fitted anew" in line for line in said)
    changed = {"promptsrc": {**QUICK["promptsrc"], "learning_rate": 0.1}}
    fitted(kept, section(methods=changed))
    assert len(list((tmp_path / "teacher").iterdir())) == 2


def test_who_needs_it_while_another_fits_it_waits(task: Task, tmp_path: Path) -> None:
    kept = replace(task, work=tmp_path)
    fitted(kept)
    (path,) = (tmp_path / "teacher").iterdir()
    whole = path.read_bytes()
    path.unlink()
    waiting = threading.Event()

    def say(line: str) -> None:
        if "fitting promptsrc" in line:
            waiting.set()

    with ThreadPoolExecutor() as pool, pytest.MonkeyPatch.context() as patch:
        with exclusive(path.with_suffix(".lock"), "another program"):
            patch.setattr(teaching, "fit_method", None)
            patient = replace(kept, reporter=replace(task.reporter, say=say))
            found = pool.submit(fitted, patient)
            assert waiting.wait(60)
            assert not found.done()
            path.write_bytes(whole)
        assert found.result(timeout=60).method == "promptsrc"


def test_it_is_read_from_a_model_file_or_a_checkpoint(task: Task, tmp_path: Path) -> None:
    own = fit_method(teacher_method(section()), task)
    assert isinstance(own.fitted, IndependentPrompts)
    plain, whole, foreign = (tmp_path / name for name in ("plain", "whole", "model.pth.tar-20"))
    own.save(plain)
    own.save(whole, with_backbone=True)
    torch.save({"state_dict": state_of(own.fitted, NAMES[:2]), "epoch": 20}, foreign)
    for path in (plain, whole, foreign):
        teacher = section(checkpoint=str(path))
        check = check_teacher(["clip", "promptkd"], teacher, STUDENT)
        assert str(path) in check
        found = fitted(task, teacher).fitted
        assert isinstance(found, IndependentPrompts)
        assert torch.equal(found.text, own.fitted.text)
        assert (found.saw == (UNKNOWN_IMAGES,)) == (path == foreign)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "promptkd"}, "teacher.method: promptkd needs a teacher itself"),
        ({"method": "capt"}, "teacher.method: capt needs what is mined"),
        ({"method": "gda"}, "teacher.method: gda tells images by more than class texts"),
        ({"method": "nothing"}, "unknown method 'nothing'"),
        ({"methods": {"promptsrc": {"epoch": 1}}}, "teacher.methods.promptsrc.epoch: unknown key"),
        ({"backbone": {"name": "RN50", "pretrained": "openai"}}, "ModifiedResNet is no vision"),
        ({"backbone": {"name": "ViT-X"}}, "no weights named for its backbone ViT-X; set teacher."),
        (
            {"backbone": {"name": "ViT-X", "pretrained": "a"}},
            "teacher.backbone.name: unknown model",
        ),
        (
            {"backbone": {"name": "ViT-L-14", "pretrained": "a"}},
            "teacher.backbone.pretrained: open_clip has no weights 'a' of ViT-L-14; known: ",
        ),
        (
            {"backbone": {"name": "ViT-L-14", "checkpoint": "gone.pt"}},
            "teacher.backbone.checkpoint: gone.pt: no such file",
        ),
        ({"checkpoint": "gone.tar"}, "teacher.checkpoint: gone.tar: no such file"),
    ],
)
def test_a_teacher_that_cannot_be_had_is_refused_first(changes: dict[str, Any], said: str) -> None:
    if "backbone" in changes:
        changes = {**changes, "backbone": params.TeacherBackbone(**changes["backbone"])}
    message = refusal(check_teacher, ["clip", "promptkd"], section(**changes), STUDENT)
    assert message.startswith("promptkd needs a teacher; ")
    assert said in message
    assert check_teacher(["clip", "coop"], section(**changes), STUDENT) == ""
