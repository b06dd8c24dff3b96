"""Two prompts side by side: the tuned one for trained classes, the backbone's for others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import nn

from capt_core.backbone.loading import Backbone
from capt_core.methods.classes import Classes
from capt_core.methods.dpc.mining import Rows
from capt_core.methods.method import Fitted, Method
from capt_core.methods.views import Augmentation


class DualPrompts(Fitted):
    """A fitted backbone (the base model) and what was tuned from it on hard negatives.

    A class that was trained is compared by what was tuned, any other by the backbone: of a list
    that mixes both, each class has the logit that it has in a list of its own kind.

    Args:
        method: with the settings it was fitted with.
        base: the backbone, frozen.
        names: of the trained classes.
    """

    negatives_view: ClassVar[Augmentation]
    """Of images of negatives."""

    def __init__(self, method: Method, base: Fitted, names: Sequence[str]) -> None:
        super().__init__(method, base.backbone)
        self.base = base
        self.names = tuple(names)

    @classmethod
    @abstractmethod
    def cloned(
        cls, method: Method, base: Fitted, names: Sequence[str], teacher: Fitted | None
    ) -> Self:
        """What is tuned, before the first step.

        Args:
            method: with its settings.
            base: the backbone.
            names: of the trained classes.
            teacher: that the backbone was distilled from, where it was.

        Raises:
            CaptError: the backbone or its teacher has no prompt that can be tuned so.
        """

    @classmethod
    @abstractmethod
    def restored(
        cls,
        method: Method,
        base: Fitted,
        names: Sequence[str],
        tensors: Mapping[str, torch.Tensor],
    ) -> Self:
        """What was tuned, from its `state_dict`."""

    @property
    def start(self) -> Fitted:
        return self.base

    def train(self, mode: bool = True) -> Self:
        """The backbone stays in evaluation mode."""
        super().train(mode)
        self.base.eval()
        return self

    def is_trained(self, classes: Classes) -> list[bool]:
        """Which classes were trained."""
        own = set(self.names)
        return [name in own for name in classes.names]

    def class_texts(self, classes: Classes) -> torch.Tensor:
        trained: list[int] = []
        others: list[int] = []
        for position, own in enumerate(self.is_trained(classes)):
            (trained if own else others).append(position)
        parts = ((trained, self.tuned_texts), (others, self.other_texts))
        texts = torch.cat([of(classes.only(chosen)) for chosen, of in parts if chosen])
        return texts[torch.tensor([*trained, *others]).argsort()]

    @abstractmethod
    def tuned_texts(self, classes: Classes) -> torch.Tensor:
        """Texts of classes by the tuned prompt, unit length, [C, d], on the CPU."""

    @abstractmethod
    def other_texts(self, classes: Classes) -> torch.Tensor:
        """Texts of classes by the prompt for classes that were not trained, [C, d]."""

    def readable_prompts(self, classes: Classes) -> list[str]:
        return self.base.readable_prompts(classes)

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "base": self.base.record(),
            "names": list(self.names),
        }

    def tuned_parameters(self) -> list[nn.Parameter]:
        """Those that are tuned; the base model's are not."""
        frozen = {id(parameter) for parameter in self.base.parameters()}
        return [each for each in self.parameters() if id(each) not in frozen]

    @abstractmethod
    def learner(self, names: Sequence[str], teacher: Fitted | None) -> Learner:
        """What is trained, over the trained classes' names as they stand in a prompt.

        Raises:
            CaptError: a name is too long for the backbone with its context.
        """


class Learner(ABC):
    """A `DualPrompts` in training, with the texts of the trained classes."""

    @property
    @abstractmethod
    def logit_scale(self) -> float:
        """Inverse temperature of the loss."""

    @property
    @abstractmethod
    def among(self) -> range:
        """Trained classes, by position, that random negatives are drawn among."""

    @property
    @abstractmethod
    def mined_by(self) -> Backbone:
        """What the images of `probabilities` are preprocessed for."""

    @abstractmethod
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """The backbone's of images [B, 3, S, S] among the trained classes, [B, C]."""

    @abstractmethod
    def compared(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the rows' images and of the texts of their classes, unit length, [L, d]."""

    def keep_texts(self) -> None:
        """After the last step: keep what class texts need that is not at hand later."""
        return
