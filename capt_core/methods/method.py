"""What a method is: what it needs, how it is fitted, and what a fitted one gives."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.learning.loop import Trained
from capt_core.methods.classes import Classes
from capt_core.methods.data_facts import DataFacts
from capt_core.methods.image_tower import ImageTower
from capt_core.methods.task import Task
from capt_core.methods.zero_shot import class_logits
from capt_core.prompts.shapes import DescriptionForm
from capt_core.settings_file import Section

Scorer = Callable[[torch.Tensor], torch.Tensor]
"""Function from image features [N, d] to logits [N, C]."""

BASE_ONLY = "base only"
"""What a run saw that saw nothing beyond few-shot images of base classes and their names."""


class Need(StrEnum):
    """What a method takes from a `Task` beside class names and labels."""

    FEATURES = "features"  # frozen features of the few-shot images
    PIXELS = "pixels"  # the images themselves, to be augmented or sent through changed towers
    UNLABELLED = "unlabelled"  # unlabelled training images
    DESCRIPTIONS = "descriptions"  # written prompts about pairs of classes
    CLASS_DESCRIPTIONS = "class_descriptions"  # of classes, alone or against others
    CONFUSIONS = "confusions"  # pairs, prompts and representatives mined from a base model's errors
    BASE_MODEL = "base_model"  # a fitted method to start from
    TEACHER = "teacher"  # a fitted method to distil from, possibly of another architecture
    BASE_TEACHER = "base_teacher"  # that of the base model, where that one has one


class Method(ABC):
    """A way to adapt a frozen CLIP, with its settings.

    Attributes:
        name: on the command line, in `params.yaml` and in artifacts.
        label: in tables.
        citation: authors, venue and year.
        needs: what `fit` takes from its task.
        description_form: in which it takes `Need.CLASS_DESCRIPTIONS`. A language model is asked
            about single classes only for methods that take them by themselves.
        compares_texts: whether a fitted one's logits are those of images with class texts alone.
        Settings: class of the section ``methods.<name>``.
        settings: the section.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    citation: ClassVar[str] = ""
    needs: frozenset[Need] = frozenset({Need.FEATURES})
    description_form: ClassVar[DescriptionForm] = "sentences"
    compares_texts: ClassVar[bool] = True
    Settings: ClassVar[type[Section]] = Section

    def __init__(self, settings: Any = None) -> None:
        self.settings: Any = self.Settings() if settings is None else settings

    @property
    def described_by_name(self) -> float:
        """Weight of difference prompts in the texts of classes that only their name is known of.

        Their partners are predicted from text features. 0: such a class keeps its prompt.
        """
        return 0.0

    def check_clip(self, clip: Any) -> None:  # noqa: B027 most methods take any
        """Refuse an open_clip model that the method cannot be fitted on.

        Its values are not looked at: it may be on the meta device.

        Raises:
            CaptError: the message says what the method needs.
        """

    def check_base(self, base: Method) -> None:  # noqa: B027 most methods take any, or none
        """Refuse the method of a base model that this one cannot start from.

        Raises:
            CaptError: the message says which to choose.
        """

    def check_data(self, data: DataFacts) -> None:
        """Refuse data that the method cannot be fitted on.

        Asked when a data set is prepared and again before a fit. What only its task has (features,
        a base model, a teacher) is checked by `Task.check`.

        Raises:
            CaptError: the message says what the method needs, and what to give.
        """
        if Need.UNLABELLED in self.needs and not data.training_images:
            raise CaptError(
                f"{self.name} needs unlabelled training images, {data.dataset} has none; add "
                "images of its classes to the training split"
            )
        if Need.CLASS_DESCRIPTIONS in self.needs and (
            data.descriptions is not None and data.descriptions.is_empty()
        ):
            raise CaptError(undescribed(self.name, data.dataset))

    @abstractmethod
    def fit(self, task: Task) -> Fitted:
        """Learn from a task.

        Raises:
            CaptError: the settings cannot be met, or the loss is no number any more.
        """

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> Fitted:
        """The fitted method again, from its `state_dict`, which it may keep, and `facts`."""
        return Fitted(self, backbone, named_vectors(tensors, facts))

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        """What a run saw beyond few-shot images of base classes and their names."""
        found = ["all base training images (shots)"] if task.shots == 0 else []
        return [*found, *fitted.seen_before, *fitted.seen_in_texts()]


def undescribed(method: str, dataset: str, what: str = "what is written about the classes") -> str:
    """The message for a method that needs sentences where nothing is written, with the ways on."""
    return (
        f"{method} needs {what}, and nothing is about {dataset}; name a file in "
        "generate_prompts.store (capt-stage prompts import makes one of other formats), or have it "
        "written by a language model (generate_prompts.provider=anthropic)"
    )


class Fitted(nn.Module):
    """A fitted method: image features, class texts and logits for any class names.

    As it stands it is zero-shot CLIP. What a method learns is held in parameters and buffers of a
    subclass, or in `class_vectors`.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen; no part of this module's state.
        class_vectors: what images of a class are compared with, by class name, each [d] of unit
            length; classes without one are compared with their prompt.
    """

    frozen_tower: ClassVar[bool] = True
    """Whether `encode` is the backbone's own tower, so that stored features can be taken."""

    seen_before: tuple[str, ...] = ()
    """What was seen before this project had it: by training elsewhere."""

    saw: tuple[str, ...] = ()
    """What its training saw beyond few-shot images of base classes, as its model says."""

    left_out: tuple[str, ...] = ()
    """What its settings ask for and its data could not give, each with the reason."""

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        class_vectors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.method = method
        self._backbone = (backbone,)  # a tuple keeps the frozen CLIP out of this module's state
        self.training_run: Trained | None = None
        self.vector_names = tuple(class_vectors or ())
        self.class_vectors: torch.Tensor | None
        stacked = torch.stack(list(class_vectors.values())) if class_vectors else None
        self.register_buffer("class_vectors", stacked)

    @property
    def backbone(self) -> Backbone:
        return self._backbone[0]

    def take_teacher(self, teacher: Fitted) -> None:
        """Make the model that this one was distilled from at hand, where there is one.

        Raises:
            CaptError: another teacher than it had.
        """

    def text_backbone(self) -> Backbone:
        """The CLIP in whose joint space the class texts are, where texts are to be put beside them.

        The backbone, except where a method takes its class texts from another model.
        """
        return self.backbone

    def image_tower(self) -> ImageTower:
        """What `encode` runs an image through, with the tensors as they are at the call.

        A method that changes the image tower gives a subclass; its features are then had from
        there, and another method can start from it.

        Raises:
            CaptError: the method cannot be started from.
        """
        if not self.frozen_tower:
            raise CaptError(
                f"base model: {self.method.name} changes the image tower in a way that nothing can "
                "start from; choose another base model, such as clip or promptsrc"
            )
        return ImageTower(self.backbone.clip.visual)

    @property
    def trained_parameters(self) -> int:
        """How many numbers were trained; known where the method has just been fitted."""
        return 0 if self.training_run is None else self.training_run.parameters

    def readable_prompts(self, classes: Classes) -> list[str]:
        """What stands for each class in `class_texts`, for people."""
        return classes.prompts

    def facts(self) -> dict[str, Any]:
        """Plain values that `Method.restore` needs beside the tensors."""
        return {"vector_names": list(self.vector_names)} if self.vector_names else {}

    def record(self) -> dict[str, Any]:
        """What rebuilds it beside its tensors, as plain values."""
        settings = self.method.settings.model_dump()
        record = {"method": self.method.name, "settings": settings, "facts": self.facts()}
        told = {"seen_before": self.seen_before, "left_out": self.left_out}
        return record | {name: list(texts) for name, texts in told.items() if texts}

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Image tensors [B, 3, S, S] to features of the tower [B, d], not normalised."""
        if not self.frozen_tower:
            return self.image_tower().encode(images)
        features: torch.Tensor = self.backbone.clip.encode_image(images)
        return features

    @property
    def start(self) -> Fitted:
        """What the method started from: its fitted base model, or else zero-shot CLIP."""
        from capt_core.methods.clip import Clip  # a method, which imports this module

        return Fitted(Clip(), self.backbone)

    def encode_with_start(
        self, images: torch.Tensor, start: Fitted
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of `encode` of this method and of its `start`; what both share is run once."""
        features = self.encode(images)
        shared = self.frozen_tower and start.frozen_tower
        return features, features if shared else start.encode(images)

    def adapt(self, features: torch.Tensor) -> torch.Tensor:
        """Features of `encode`, unit length, [N, d], to the method's own, unit length, [N, d]."""
        return features

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Image tensors [B, 3, S, S] to unit-length features [B, d] in fp32."""
        with self.backbone.precision():
            encoded = self.encode(images)
        return self.adapt(functional.normalize(encoded.float(), dim=-1))

    def class_texts(self, classes: Classes) -> torch.Tensor:
        """What images are compared with, unit length, [C, d], on the CPU.

        Raises:
            CaptError: a prompt is too long for the backbone.
        """
        return self.with_vectors(classes, encode_texts(classes.prompts, self.backbone))

    def with_vectors(self, classes: Classes, texts: torch.Tensor) -> torch.Tensor:
        """Texts [C, d] with those of classes that have a vector of their own replaced."""
        if self.class_vectors is None:
            return texts
        rows = {name: row for row, name in enumerate(self.vector_names)}
        known = [index for index, name in enumerate(classes.names) if name in rows]
        if known:
            chosen = [rows[classes.names[index]] for index in known]
            texts = texts.clone()
            texts[known] = self.class_vectors[chosen].to(texts)
        return texts

    def with_more_vectors(self, vectors: Mapping[str, torch.Tensor]) -> Fitted:
        """The same with further `class_vectors`; all else is shared with this one."""
        if not vectors:
            return self
        found = copy.copy(self)
        found._buffers = dict(self._buffers)
        found.vector_names = (*self.vector_names, *vectors)
        own = () if self.class_vectors is None else (self.class_vectors,)
        device = own[0].device if own else "cpu"
        stacked = torch.stack(list(vectors.values())).to(device)
        found.class_vectors = torch.cat([*own, stacked])
        return found

    @property
    def texts_alone(self) -> bool:
        """Whether its logits are those of images with class texts alone."""
        return self.method.compares_texts

    def scorer(self, classes: Classes, texts: torch.Tensor | None = None) -> Scorer:
        """Function from features of `adapt` or `image_features`, [N, d], to logits [N, C].

        This is the one place that scores: evaluation, mining and a trained model all ask here.

        Args:
            classes: C to choose among; how two compare may depend on which others there are.
            texts: their `class_texts`, [C, d], where they are at hand; a method that compares
                images with something else does without.

        Raises:
            CaptError: a class that the method cannot tell, or whose prompt is too long.
        """
        compared = self.class_texts(classes) if texts is None else texts
        scale = self.backbone.logit_scale
        return lambda features: class_logits(features, compared.to(features), scale)

    def logits(self, features: torch.Tensor, classes: Classes) -> torch.Tensor:
        """Logits [N, C] of features [N, d]; see `scorer`."""
        return self.scorer(classes)(features)

    def forward(self, images: torch.Tensor, classes: Classes) -> torch.Tensor:
        """Image tensors [B, 3, S, S] to logits [B, C]."""
        return self.logits(self.image_features(images), classes)

    def seen_in_texts(self) -> list[str]:
        """What the class texts say of classes beside their names."""
        written = Need.DESCRIPTIONS in self.method.needs and self.vector_names
        return ["difference prompts (class texts)"] if written else []


def named_vectors(
    tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """The `class_vectors` that a fitted method was saved with."""
    names = facts.get("vector_names", [])
    if not names:
        return {}
    return dict(zip(names, tensors["class_vectors"], strict=True))
