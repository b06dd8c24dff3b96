"""The teacher that methods distil from: fitted on its own backbone, or read from a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from capt_core import params
from capt_core.artifacts.lineage import untraced
from capt_core.artifacts.locks import exclusive
from capt_core.backbone.architecture import check_backbone, outline
from capt_core.backbone.identity import EMBEDDED, TINY_CLIP_TEACHER
from capt_core.backbone.loading import Backbone, load_backbone
from capt_core.backbone.weights_file import Form, weights_form
from capt_core.errors import CaptError
from capt_core.learning.processes import Processes
from capt_core.methods.fitting import (
    FewShotImages,
    base_method,
    fit_method,
    forget_checkpoint,
)
from capt_core.methods.importing.model import class_names, imported_model, read_checkpoint
from capt_core.methods.method import Method, Need
from capt_core.methods.model_file import load_model, open_model
from capt_core.methods.registry import method_class
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from capt_core.settings_file import merge, validate

LARGER = "ViT-L-14"
"""The field's teacher backbone."""

CHECKPOINT = "teacher.checkpoint"


def teacher_backbone(teacher: params.Teacher, student: params.Backbone) -> params.Backbone:
    """The settings of the teacher's backbone; what they leave open follows from the student's.

    Args:
        teacher: the section ``teacher``.
        student: the section ``backbone``.

    Raises:
        CaptError: no weights are named for it.
    """
    given = teacher.backbone
    embedded = student.name in EMBEDDED and student.checkpoint is None
    name = given.name or (TINY_CLIP_TEACHER if embedded else LARGER)
    tag = given.pretrained or (None if given.checkpoint else student.pretrained)
    chosen = params.Backbone(name=name, checkpoint=given.checkpoint, pretrained=tag)
    if not (chosen.checkpoint or tag or name in EMBEDDED):
        raise CaptError(
            f"teacher: no weights named for its backbone {name}; set teacher.backbone.checkpoint="
            f"FILE, or teacher.backbone.pretrained=TAG to download them, or {CHECKPOINT}=FILE, a "
            "fitted model that holds its backbone"
        )
    return chosen


def teacher_method(teacher: params.Teacher) -> Method:
    """The method that the teacher is fitted with, with its settings.

    Raises:
        CaptError: unknown, one that cannot teach, or a mistake in its settings.
    """
    name = teacher.method
    found = base_method(name, "teacher.method")
    if Need.TEACHER in found.needs:
        raise CaptError(
            f"teacher.method: {name} needs a teacher itself; choose another, such as promptsrc"
        )
    section = merge(found.Settings().model_dump(), teacher.methods.get(name, {}))
    return found(validate(found.Settings, section, "settings", f"teacher.methods.{name}."))


def check_teacher(methods: Iterable[str], teacher: params.Teacher, student: params.Backbone) -> str:
    """Refuse methods whose teacher could not be had, without loading any weights.

    Args:
        methods: names.
        teacher: the section ``teacher``.
        student: the section ``backbone``.

    Returns:
        What the teacher is, in words; empty where none is needed.

    Raises:
        CaptError: names the method, and what to set.
    """
    for name in methods:
        if Need.TEACHER not in method_class(name).needs:
            continue
        try:
            return _checked(teacher, student)
        except CaptError as error:
            raise CaptError(f"{name} needs a teacher; {error}") from error
    return ""


def _checked(teacher: params.Teacher, student: params.Backbone) -> str:
    path = _file(teacher)
    if path is not None and weights_form(path, CHECKPOINT) == Form.SAFETENSORS:
        file = open_model(path)
        if file.has_backbone:
            return f"{file.method} on {file.identity}, {path}"
    with _named_as_teacher():
        method, chosen = teacher_method(teacher), teacher_backbone(teacher, student)
        check_backbone(chosen)
        method.check_clip(outline(chosen.name))
    fitted = "to be fitted" if path is None else str(path)
    return f"{method.name} on {chosen.name}, {fitted}"


def fitted_teacher(
    teacher: params.Teacher, student: params.Backbone, runtime: params.Runtime, task: Task
) -> TrainedModel:
    """The teacher of a task: read from its file, or fitted on the same few-shot images.

    A fitted one is kept in the task's folder, where every method that needs it finds it; an
    interrupted fit goes on from its last checkpoint.

    Args:
        teacher: the section ``teacher``.
        student: the section ``backbone``.
        runtime: device and precision of the teacher.
        task: of the method that distils.

    Raises:
        CaptError: the weights cannot be had, the file cannot be read, or as the method's fit.
    """
    path = _file(teacher)
    if path is not None:
        return _read(path, teacher, student, runtime, task)
    method = teacher_method(teacher)
    with _named_as_teacher():
        backbone = load_backbone(teacher_backbone(teacher, student), runtime)
        method.check_clip(backbone.clip)
    images = FewShotImages(task.dataset, task.fewshot, backbone, task.reporter)
    own = replace(
        task,
        backbone=backbone,
        features=lambda: images.features,
        prompts=None,
        confusions=None,
        base_model=None,
        teacher=None,
    )
    if task.work is None:
        return fit_method(method, own)
    written = ""
    if Need.CLASS_DESCRIPTIONS in method.needs:
        assert task.class_descriptions is not None
        written = task.class_descriptions().write_csv()
    name = f"{own.key(method, written)}.safetensors"
    return _kept(task.work / "teacher" / name, method, own)


def _kept(path: Path, method: Method, task: Task) -> TrainedModel:
    """The model in a file, or else a fitted one that is written there."""
    processes, name = Processes(task.backbone.device), method.name
    found = _found(path, task)
    processes.wait()  # all have looked before one writes
    if found is not None:
        task.reporter.say(f"teacher: {name} on {task.backbone.identity}, from {path}")
        return found
    task.reporter.say(f"teacher: fitting {name} on {task.backbone.identity}, once for this draw")
    if not processes.first:
        return fit_method(method, task)
    with exclusive(path.with_suffix(".lock"), "fitting the teacher", wait=True), untraced():
        if processes.count == 1:  # another program may have written it meanwhile
            found = _found(path, task)
        if found is None:
            found = fit_method(method, task)
            found.save(path)
            forget_checkpoint(found)
    task.reporter.say(f"teacher: {name} -> {path}")
    return found


def _found(path: Path, task: Task) -> TrainedModel | None:
    if not path.is_file():
        return None
    try:
        return load_model(path, task.backbone)
    except CaptError as error:
        task.reporter.warn(f"{error}; it is fitted anew")
        return None


def _file(teacher: params.Teacher) -> Path | None:
    return None if teacher.checkpoint is None else Path(teacher.checkpoint).expanduser()


def _read(
    path: Path,
    teacher: params.Teacher,
    student: params.Backbone,
    runtime: params.Runtime,
    task: Task,
) -> TrainedModel:
    """A model file of this project, or a checkpoint of Dassl's."""
    ours = weights_form(path, CHECKPOINT) == Form.SAFETENSORS
    with untraced(), _named_as_teacher():
        file = open_model(path) if ours else None
        if file is not None and file.has_backbone:
            return file.model(file.own_backbone(runtime))
        backbone: Backbone = load_backbone(teacher_backbone(teacher, student), runtime)
        if file is not None:
            return file.model(backbone)
        names = class_names(task.dataset)
        found = read_checkpoint(path, teacher_method(teacher), backbone, names)
    for line in found.warnings:
        task.reporter.warn(f"teacher: {line}")
    return imported_model(found, task.dataset, task.seed)


_SETTING = re.compile(r"(?<![\w.])(backbone|fit_teacher)\.(?=name|checkpoint|pretrained|method)")


@contextmanager
def _named_as_teacher() -> Iterator[None]:
    """Within the block, let messages name the teacher's settings where they name the student's."""
    owners = {"backbone": "teacher.backbone.", "fit_teacher": "teacher."}
    try:
        yield
    except CaptError as error:
        text = _SETTING.sub(lambda found: owners[found[1]], str(error))
        raise CaptError(text if text.startswith("teacher") else f"teacher: {text}") from error
