"""Zero-shot logits with what few-shot images say of their classes added to them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from capt_core.backbone.loading import Backbone
from capt_core.methods.classes import Classes
from capt_core.methods.feature_training import class_positions
from capt_core.methods.method import Fitted, Method, Scorer
from capt_core.methods.selection import likeliest, validation_images
from capt_core.methods.task import Task


def with_evidence(
    zero_shot: torch.Tensor,
    evidence: torch.Tensor,
    rows: Sequence[int],
    columns: Sequence[int],
    alpha: float,
) -> torch.Tensor:
    """Zero-shot logits + alpha x evidence, among classes that not all have images.

    Classes without images keep their zero-shot logits. Where one is asked for, the others are
    shifted, image by image, so that they have together the probability that zero-shot CLIP gives
    them: evidence tells classes with images apart, and has no scale on which to compare them with
    those that only have a text.

    Args:
        zero_shot: of the classes asked for, [N, C].
        evidence: of the classes with images, [N, K].
        rows: which of the K are asked for.
        columns: their positions among the C.
        alpha: weight of the evidence.

    Returns:
        Logits [N, C].
    """
    known = zero_shot[:, list(columns)]
    told = known + alpha * evidence[:, list(rows)]
    if 0 < len(columns) < zero_shot.shape[1]:
        before, after = (logits.logsumexp(dim=1, keepdim=True) for logits in (known, told))
        told = told + before - after
    logits = zero_shot.clone()
    logits[:, list(columns)] = told
    return logits


class WithEvidence(Fitted):
    """CLIP whose zero-shot logits are added to; see `with_evidence`.

    Args:
        method: with the settings it was fitted with.
        backbone: frozen.
        names: the K classes with images.
        alpha: weight of the evidence.
        class_vectors: see `Fitted`.
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        names: Sequence[str],
        alpha: float,
        class_vectors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(method, backbone, class_vectors)
        self.names = tuple(names)
        self.alpha = alpha

    @abstractmethod
    def evidence(self, features: torch.Tensor) -> torch.Tensor:
        """What images say of the K classes, [N, K], by features [N, d]."""

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "names": list(self.names), "alpha": self.alpha}

    def scorer(self, classes: Classes, texts: torch.Tensor | None = None) -> Scorer:
        zero_shot = super().scorer(classes, texts)
        rows, columns = shared_classes(self.names, classes)
        return lambda features: with_evidence(
            zero_shot(features), self.evidence(features), rows, columns, self.alpha
        )


def shared_classes(names: Sequence[str], classes: Classes) -> tuple[list[int], list[int]]:
    """Positions among `names` and among `classes` of the classes that are in both."""
    row = {name: index for index, name in enumerate(names)}
    columns = [index for index, name in enumerate(classes.names) if name in row]
    return [row[classes.names[index]] for index in columns], columns


@dataclass(frozen=True)
class LabelledImages:
    """Few-shot images of the trained classes.

    Attributes:
        names: the K classes that have any.
        features: unit length, [n, d].
        labels: positions among `names`, [n].
    """

    names: tuple[str, ...]
    features: torch.Tensor
    labels: torch.Tensor

    @staticmethod
    def of(task: Task) -> LabelledImages:
        """Those of a task."""
        images = task.few_shot()
        given = set(images.labels.tolist())
        class_ids = [class_id for class_id in task.trained_classes if class_id in given]
        names = tuple(task.dataset.class_names[class_id] for class_id in class_ids)
        return LabelledImages(names, images.features, class_positions(images.labels, class_ids))


def trained_classes(task: Task) -> Classes:
    """Names and templates of the classes that are trained."""
    return Classes.of(task.dataset).only(task.trained_classes)


def chosen(
    task: Task,
    fitted: WithEvidence,
    setting: str,
    candidates: Iterable[Mapping[str, float]],
    evidence_of: Callable[[Mapping[str, float], torch.Tensor], torch.Tensor],
) -> Mapping[str, float]:
    """The candidate under which few-shot validation images of trained classes are likeliest.

    Args:
        task: with features.
        fitted: names the classes with images.
        setting: path of what is chosen, for messages.
        candidates: settings by name, `alpha` among them; one or more.
        evidence_of: evidence [N, K] that a candidate gives for features [N, d].

    Raises:
        CaptError: there are no validation images.
    """
    val = validation_images(task, "base", setting)
    classes = trained_classes(task)
    zero_shot = Fitted.scorer(fitted, classes)(val.features)
    rows, columns = shared_classes(fitted.names, classes)

    def logits_of(candidate: Mapping[str, float]) -> torch.Tensor:
        evidence = evidence_of(candidate, val.features)
        return with_evidence(zero_shot, evidence, rows, columns, candidate["alpha"])

    labels = class_positions(val.labels, task.trained_classes)
    found = likeliest(candidates, logits_of, labels)
    values = ", ".join(f"{name} {value:g}" for name, value in found.items())
    task.reporter.say(f"{values}: chosen on {len(labels)} validation images")
    return found


def open_settings(settings: Any, *names: str) -> list[str]:
    """What a run saw whose settings leave some open, as `Method.sees` lists it."""
    left = [name for name in names if getattr(settings, name) is None]
    return [f"validation images ({', '.join(left)})"] if left else []
