"""PromptKD."""

from __future__ import annotations

import torch

from benchmarks.parity.fixture import Fixture, Tensors
from benchmarks.parity.prompted import prefixed
from benchmarks.parity.training import gradients, schedule, train
from capt_core.methods.frozen_teacher import FrozenTeacher
from capt_core.methods.projector import Projector
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.zero_shot_reference import divergence
from capt_core.methods.promptkd import DistillationLoss, PromptedStudent, PromptKD, PromptKDSettings
from capt_core.methods.promptsrc import IndependentPrompts, PromptSRC
from capt_core.methods.zero_shot import class_logits

NOISE = ("*projector.conv1.bias",)
"""BatchNorm takes this bias away: rounding makes its gradient, and moves it beside the decay."""


def known(fixture: Fixture) -> bool:
    """Whether a fixture is one of PromptKD."""
    parts = {name.partition(".")[0] for name in fixture.weights}
    return parts == {"clip", "teacher_clip", "teacher_prompt", "student_prompt", "projector"}


def computed(fixture: Fixture) -> tuple[Tensors, Tensors]:
    """What PromptKD gives, and the starts of what it trains, by name."""
    config, images = fixture.config, fixture.inputs["images"]
    fixture.check_names("names", fixture.inputs["tokens"])
    settings = PromptKDSettings.model_validate(
        {
            **schedule(fixture),
            "image_prompts": config["n_visual_student"],
            "image_depth": config["depth_visual_student"],
            "kd_weight": config["kd_weight"],
            "temperature": config["temperature"],
        }
    )
    method = PromptKD(settings)
    student = student_of(fixture, method).train()
    teacher = teacher_of(fixture, fixture.inputs["tokens"])
    loss_of = DistillationLoss(student, teacher, method.weight(fixture.name), settings.temperature)
    found: Tensors = {
        "teacher.image_features": teacher.features(images),
        "teacher.text_features": teacher.texts,
        "teacher.logits": teacher.logits(images),
        "train.softmax_teacher": (teacher.logits(images) / settings.temperature).softmax(dim=1),
        **prefixed("eval", _scores(fixture, student, teacher)),
        **prefixed("projector", _projected(fixture, method)),
        "student.embedding": _embedding(student, images),
    }
    # Statistics of the batch move the running ones with every pass, so each has a student anew.
    logits = _fresh(fixture, method, loss_of).logits(images)
    fresh = _fresh(fixture, method, loss_of)
    total = fresh(images, images)[0]
    found |= {
        "train.log_softmax_student": (logits / settings.temperature).log_softmax(dim=1),
        "loss.kl_sum": divergence(logits, teacher.logits(images), settings.temperature),
        "loss.total": total,
    }
    names = [name for name, _ in fresh.student.named_parameters()]
    slopes = gradients(total, list(fresh.student.parameters()))
    found |= prefixed("grad", _named(dict(zip(names, slopes, strict=True))))
    # The teacher sees the images in the place where other methods are given labels.
    found |= train(
        fixture, settings, student, lambda *_: loss_of(images, images), images, config["steps"]
    )
    after = _named(student.state_dict())
    found |= prefixed("after", {**after, **prefixed("eval", _scores(fixture, student, teacher))})
    starts = {name: value for name, value in fixture.weights.items() if "clip." not in name}
    return found, prefixed("after", starts)


def student_of(fixture: Fixture, method: PromptKD) -> PromptedStudent:
    """The student of a fixture at its start, in evaluation mode."""
    weights = fixture.below("projector.")
    teacher_width, width = weights["conv1.weight"].shape[:2]
    projector = Projector(width, teacher_width).double()
    projector.load_state_dict({**projector.state_dict(), **weights})
    sizes = ("depth_visual_student", "n_visual_student")
    image = fixture.prompts("student_prompt.visual.", *sizes)
    return PromptedStudent(method, fixture.backbone("open_clip_student"), image, projector).eval()


@torch.no_grad()
def teacher_of(fixture: Fixture, tokens: torch.Tensor) -> FrozenTeacher:
    """The teacher of a fixture, for classes whose texts are given as token ids."""
    backbone = fixture.backbone("open_clip_teacher", "teacher_clip.")
    sizes = ("depth_visual_teacher", "n_visual_teacher")
    text = fixture.prompts("teacher_prompt.text.", "depth_text_teacher", "n_text")
    image = fixture.prompts("teacher_prompt.visual.", *sizes)
    fitted = IndependentPrompts(PromptSRC(), backbone, text, image).eval()
    return FrozenTeacher(fitted, unit(fitted.encode_tokens(tokens)))


def _fresh(fixture: Fixture, method: PromptKD, loss_of: DistillationLoss) -> DistillationLoss:
    student = student_of(fixture, method).train()
    return DistillationLoss(student, loss_of.teacher, loss_of.weight, loss_of.temperature)


@torch.no_grad()
def _projected(fixture: Fixture, method: PromptKD) -> Tensors:
    """The projector's output in both modes, and what one batch makes of its running statistics."""
    student = student_of(fixture, method)
    embedding = _embedding(student, fixture.inputs["images"])
    found = {"eval_output": student.projector(embedding)}
    found["train_output"] = student.train().projector(embedding)
    for name in ("running_mean", "running_var"):
        found[f"train.{name}_after_one_batch"] = student.projector.bn.get_buffer(name)
    return found


@torch.no_grad()
def _scores(fixture: Fixture, student: PromptedStudent, teacher: FrozenTeacher) -> Tensors:
    """Features of the images and logits for both halves of the classes, in evaluation mode."""
    training = student.training
    features = student.eval().compared(fixture.inputs["images"])
    student.train(training)
    logits = class_logits(features, teacher.texts, student.backbone.logit_scale)
    count = fixture.config["n_base"]
    return {
        "image_features": features,
        "logits_base": logits[:, :count],
        "logits_novel": logits[:, count:],
    }


def _named(values: Tensors) -> Tensors:
    """Values of the student's state by the names of a fixture."""
    prompts = {f"student_prompt.visual.{depth}": each for depth, each in enumerate(values["image"])}
    return prompts | {name: value for name, value in values.items() if name != "image"}


def _embedding(student: PromptedStudent, images: torch.Tensor) -> torch.Tensor:
    """The prompted tower's features before the projector, [B, a]."""
    tower = student.image_tower()
    return tower.embedding(tower.tokens(images))
