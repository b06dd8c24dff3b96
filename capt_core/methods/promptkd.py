"""PromptKD: a prompted student image encoder learns the predictions of a frozen teacher.

Li et al., "PromptKD: Unsupervised Prompt Distillation for Vision-Language Models", CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import polars as pl
import torch
from torch import nn

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError, shown
from capt_core.learning.loop import Record
from capt_core.learning.optimisation import Optimisation
from capt_core.methods.classes import Classes
from capt_core.methods.frozen_teacher import FrozenTeacher, named, teacher_of
from capt_core.methods.image_tower import PromptedTower
from capt_core.methods.image_training import UnlabelledLoss, train_on_unlabelled
from capt_core.methods.method import Fitted, Method, Need, named_vectors
from capt_core.methods.projector import Projector, projector_start
from capt_core.methods.prompting.fitted import unit
from capt_core.methods.prompting.image import check_image_tower
from capt_core.methods.prompting.start import image_prompts_start
from capt_core.methods.prompting.zero_shot_reference import logits_distance
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.settings_file import Section, packaged

KD_WEIGHTS = {"fgvc_aircraft": 200.0, "flowers102": 200.0, "dtd": 200.0}
"""Published weights of the divergence where they are not `KD_WEIGHT`, by data set."""
KD_WEIGHT = 1000.0


class DistillationSettings(Optimisation):
    """Settings of a student with image prompts that learns a teacher's predictions."""

    data: Literal["transductive", "inductive"] = packaged()
    image_prompts: int = packaged(ge=1, le=1000)
    image_depth: int = packaged(ge=1, le=1000)
    kd_weight: float | None = packaged(ge=0, le=1e6)
    temperature: float = packaged(gt=0, le=1000)
    batch_size: int = packaged(ge=2, le=65_536)


class PromptKDSettings(DistillationSettings, path="methods.promptkd"):
    """The section ``methods.promptkd``."""


class StudentTower(PromptedTower):
    """A prompted tower whose features go through a projector."""

    def __init__(self, visual: Any, prompts: torch.Tensor, projector: Projector) -> None:
        super().__init__(visual, prompts)
        self.projector = projector

    def embedding(self, tokens: torch.Tensor) -> torch.Tensor:
        """The tower's own features [B, a], not normalised, of the last block's tokens."""
        return super().head(tokens)

    def head(self, tokens: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.projector(self.embedding(tokens))
        return projected


class PromptedStudent(Fitted):
    """An image tower with prompts and a projector, compared with a teacher's class texts.

    The texts of the classes that it was fitted for are kept as `class_vectors`; those of other
    names are the teacher's own, as long as the teacher is at hand (see `take_teacher`).

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        image: prompts, [J, P, D], by depth.
        projector: from the tower's dimension to the teacher's.
        class_vectors: the teacher's texts by class name, each [b], unit length.
        taught_by: the teacher's method and backbone.
    """

    frozen_tower = False

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        image: torch.Tensor,
        projector: Projector,
        class_vectors: Mapping[str, torch.Tensor] | None = None,
        taught_by: str = "",
    ) -> None:
        super().__init__(method, backbone, class_vectors)
        self.taught_by = taught_by
        self.image = nn.Parameter(image)
        self.projector = projector
        self._teacher: tuple[Fitted, ...] = ()  # a tuple: it is no part of this module's state

    def take_teacher(self, teacher: Fitted) -> None:
        """Make the teacher's text tower at hand for names without a kept text.

        Raises:
            CaptError: another teacher than the student had.
        """
        given = named(teacher)
        if given != self.taught_by:
            raise CaptError(f"the teacher was {shown(self.taught_by)}, not {given}; give that one")
        self._teacher = (teacher,)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "taught_by": self.taught_by}

    def readable_prompts(self, classes: Classes) -> list[str]:
        known = self._teacher
        return known[0].readable_prompts(classes) if known else super().readable_prompts(classes)

    def text_backbone(self) -> Backbone:
        if not self._teacher:
            raise CaptError(
                f"{self.method.name}: texts beside its class texts are the teacher's, "
                f"{self.taught_by}; give it: model.fitted.take_teacher(load_model(FILE).fitted)"
            )
        return self._teacher[0].text_backbone()

    def image_tower(self) -> StudentTower:
        return StudentTower(self.backbone.clip.visual, self.image, self.projector)

    def compared(self, images: torch.Tensor) -> torch.Tensor:
        """Image tensors [B, 3, S, S] to unit-length features [B, b] that gradients pass."""
        with self.backbone.precision():
            return unit(self.encode(images))

    def class_texts(self, classes: Classes) -> torch.Tensor:
        kept = set(self.vector_names)
        unknown = [index for index, name in enumerate(classes.names) if name not in kept]
        if unknown and not self._teacher:
            raise CaptError(
                f"{self.method.name}: holds the teacher's texts of the {len(kept)} classes that it "
                f"was fitted for, {shown(classes.names[unknown[0]])} is none of them; give it the "
                f"teacher, {self.taught_by}: model.fitted.take_teacher(load_model(FILE).fitted)"
            )
        assert self.class_vectors is not None
        texts = torch.empty(len(classes.names), self.class_vectors.shape[1])
        if unknown:
            texts[unknown] = self._teacher[0].class_texts(classes.only(unknown)).float().cpu()
        return self.with_vectors(classes, texts)


@dataclass(frozen=True)
class DistillationLoss:
    """The divergence of the student's predictions from the teacher's over all classes.

    Attributes:
        student: whose texts are the teacher's.
        teacher: gives the predictions to be met.
        weight: lambda.
        temperature: T, of both softmaxes.
    """

    student: PromptedStudent
    teacher: FrozenTeacher
    weight: float
    temperature: float

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """The student's logits [B, C] of images [B, 3, S, S], at the student's logit scale."""
        features = self.student.compared(images)
        scale = self.student.backbone.logit_scale
        return class_logits(features, self.teacher.texts.to(features), scale)

    def __call__(self, images: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, Record]:
        """lambda T^2 sum p_t (log p_t - log p_s) / (B C).

        Args:
            images: as the student takes them, [B, 3, S, S].
            seen: the same views as the teacher takes them.
        """
        logits = self.logits(images)
        target = self.teacher.logits(seen).to(logits)
        return self.weight * logits_distance(logits, target, self.temperature), {}


class PromptKD(Method):
    """Image prompts and a projector, distilled from a teacher's predictions without labels."""

    name = "promptkd"
    label = "PromptKD"
    citation = "Li et al., CVPR 2024"
    needs = frozenset({Need.PIXELS, Need.UNLABELLED, Need.TEACHER})
    split: ClassVar[str] = "training"
    Settings: ClassVar[type[Section]] = PromptKDSettings

    def check_clip(self, clip: Any) -> None:
        check_image_tower(clip.visual)

    @property
    def transductive(self) -> bool:
        """Whether images and names of novel classes are distilled on, too."""
        return bool(self.settings.data == "transductive")

    def given(self, task: Task) -> pl.Series:
        """Sample ids of the images that there are to distil on."""
        return task.unlabelled() if self.transductive else task.few_shot_rows()["sample_id"]

    def images(self, task: Task) -> pl.Series:
        """Sample ids that are distilled on.

        Raises:
            CaptError: there are fewer than two.
        """
        ids = self.given(task)
        if len(ids) < 2:
            raise CaptError(
                f"{self.name}: needs two training images or more, {task.dataset.name} has "
                f"{len(ids)}"
            )
        return ids

    def classes(self, task: Task) -> list[int]:
        """Ids of the classes that are predicted in training."""
        count = len(task.dataset.class_names)
        return list(range(count)) if self.transductive else task.trained_classes

    def weight(self, dataset: str) -> float:
        """lambda for a data set."""
        given: float | None = self.settings.kd_weight
        return KD_WEIGHTS.get(dataset, KD_WEIGHT) if given is None else given

    def start(self, task: Task, texts: torch.Tensor) -> PromptedStudent:
        """The student before the first step.

        Args:
            task: its backbone, seed and teacher.
            texts: the teacher's, of all classes of the data set, [C, b].
        """
        settings, backbone = self.settings, task.backbone
        image = image_prompts_start(
            backbone, settings.image_prompts, settings.image_depth, task.seed
        )
        width = backbone.clip.visual.output_dim
        projector = projector_start(width, texts.shape[1], task.seed)
        names = task.dataset.class_names
        vectors = dict(zip(names, texts.float().cpu(), strict=True))
        assert task.teacher is not None
        return PromptedStudent(self, backbone, image, projector, vectors, named(task.teacher))

    def loss(self, task: Task, student: PromptedStudent, teacher: FrozenTeacher) -> UnlabelledLoss:
        """What is minimised."""
        weight = self.weight(task.dataset.name)
        return DistillationLoss(student, teacher, weight, self.settings.temperature)

    def fit(self, task: Task) -> PromptedStudent:
        known = teacher_of(task, range(len(task.dataset.class_names)))
        student = self.start(task, known.texts).to(task.backbone.device).train()
        teacher = FrozenTeacher(known.fitted, known.texts[self.classes(task)])
        train_on_unlabelled(
            self,
            task,
            student,
            list(student.parameters()),
            self.images(task),
            teacher.fitted.backbone,
            self.loss(task, student, teacher),
        )
        student.take_teacher(teacher.fitted)
        return student

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> PromptedStudent:
        teacher_width, width = tensors["projector.conv1.weight"].shape[:2]
        student = PromptedStudent(
            self,
            backbone,
            tensors["image"],
            Projector(width, teacher_width),
            named_vectors(tensors, facts),
            str(facts.get("taught_by", "")),
        )
        student.load_state_dict(dict(tensors))
        return student

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        found = super().sees(task, fitted)
        if self.transductive:
            found += [f"unlabelled {self.split} images of all classes", "names of all classes"]
        teacher = () if task.teacher is None else task.teacher.saw
        return [*found, *(f"{each} (teacher)" for each in teacher)]
