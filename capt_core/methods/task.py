"""What a method learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import torch

from capt_core.artifacts.tensors import tensors_digest
from capt_core.backbone.loading import Backbone
from capt_core.data.dataset import Dataset
from capt_core.errors import CaptError
from capt_core.learning.checkpoint import Checkpoint
from capt_core.methods.data_facts import DataFacts
from capt_core.params import settings_hash
from capt_core.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from capt_core.methods.method import Fitted, Method


@dataclass(frozen=True)
class FewShotFeatures:
    """Labelled images as the frozen image tower encodes them.

    Attributes:
        features: unit length, [N, d].
        labels: class ids, [N].
    """

    features: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Confusions:
    """What was mined from the base model's errors.

    Attributes:
        centres: K-means centres of `commonality` and `difference` prompts, each [M, d].
        representatives: the table `representatives`.
        statistics: the table `confusion_statistics`.
        bank_source: `build_bank.source`, which images could enter the bank.
    """

    centres: Mapping[str, torch.Tensor]
    representatives: pl.DataFrame
    statistics: pl.DataFrame
    bank_source: str


@dataclass(frozen=True)
class Task:
    """A few-shot training task on a frozen backbone.

    What takes time or memory to get is a function, called by the methods that need it.

    Attributes:
        dataset: samples and classes; those of the group `base` are trained.
        fewshot: the table `fewshot`.
        backbone: the frozen CLIP.
        seed: of the few-shot draw and of everything random in training.
        shots: images per class; 0 stands for the whole training split.
        features: gives the frozen features of all samples, unit length, [N, d], by sample id.
        image_root: folder that sample paths are relative to.
        prompts: gives the table `prompts`.
        class_descriptions: gives the table `class_descriptions`.
        confusions: gives what was mined.
        base_model: fitted method that a method starts from.
        teacher: fitted method that a method distils from.
        work: folder for what an interrupted training goes on from; None keeps nothing.
        checkpoint_steps: optimiser steps between checkpoints; 0 keeps none.
        workers: threads that decode images.
        reporter: takes progress and findings.
    """

    dataset: Dataset
    fewshot: pl.DataFrame
    backbone: Backbone
    seed: int
    shots: int
    features: Callable[[], torch.Tensor] | None = None
    image_root: Path | None = None
    prompts: Callable[[], pl.DataFrame] | None = None
    class_descriptions: Callable[[], pl.DataFrame] | None = None
    confusions: Callable[[], Confusions] | None = None
    base_model: Fitted | None = None
    teacher: Fitted | None = None
    work: Path | None = None
    checkpoint_steps: int = 0
    workers: int = 2
    reporter: Reporter = SILENT

    @property
    def trained_classes(self) -> list[int]:
        """Ids of the classes that are trained."""
        return self.dataset.class_ids("base")

    def few_shot(self, split: str = "train", group: str = "base") -> FewShotFeatures:
        """Drawn images of one split and one half of the classes, in the order of the draw."""
        assert self.features is not None
        rows = self.few_shot_rows(split, group)
        return FewShotFeatures(
            self.features()[rows["sample_id"].to_list()],
            torch.tensor(rows["class_id"].to_list(), dtype=torch.long),
        )

    def few_shot_rows(self, split: str = "train", group: str = "base") -> pl.DataFrame:
        """Rows of `fewshot` of one split (`train`, `val`) and one half (`base`, `novel`)."""
        members = self.dataset.class_ids(group)
        return self.fewshot.filter(pl.col("split") == split, pl.col("class_id").is_in(members))

    def images_per_class(self) -> int:
        """Few-shot images of a trained class: `shots`, or where all are taken their mean."""
        return self.shots or -(-len(self.few_shot_rows()) // len(self.trained_classes))

    def unlabelled(self) -> pl.Series:
        """Sample ids of all training images, whose labels are not to be read."""
        return self.dataset.samples.filter(pl.col("split") == "train")["sample_id"]

    def checkpoint(self, method: Method, *depends_on: object) -> Checkpoint | None:
        """Where the state of a method's training is kept, under all that it depends on."""
        if self.work is None or not self.checkpoint_steps:
            return None
        name = f"{self.key(method, *depends_on)}.safetensors"
        return Checkpoint(self.work / "train" / name, self.checkpoint_steps)

    def key(self, method: Method, *depends_on: object) -> str:
        """Name for files of a method's fit, which changes with all that the fit depends on."""
        key = settings_hash(
            method.settings,
            self.dataset.fingerprint,
            self.backbone.identity,
            str(self.backbone.autocast),
            self.fewshot.select("sample_id", "class_id", "split").write_csv(),
            self.seed,
            *(
                None if each is None else fitted_facts(each)
                for each in (self.base_model, self.teacher)
            ),
            *depends_on,
        )
        return f"{self.dataset.name}-{method.name}-seed{self.seed}-{key}"

    def check(self, method: Method) -> None:
        """Refuse a task that lacks what a method needs, or has what it cannot be fitted on.

        Raises:
            CaptError: names what is missing, or as the method's own checks.
        """
        given = {
            "features": self.features,
            "pixels": self.image_root,
            "unlabelled": self.image_root,
            "descriptions": self.prompts,
            "class_descriptions": self.class_descriptions,
            "confusions": self.confusions,
            "base_model": self.base_model,
            "teacher": self.teacher,
        }
        missing = sorted(need for need, value in given.items() if value is None)
        missing = [need for need in missing if need in method.needs]
        if missing:
            raise CaptError(f"{method.name} needs {', '.join(missing)}, the task has none")
        try:
            method.check_clip(self.backbone.clip)
        except CaptError as error:
            raise CaptError(
                f"{method.name} cannot be used with backbone {self.backbone.identity}: {error}"
            ) from error
        if self.base_model is not None and "base_model" in method.needs:
            method.check_base(self.base_model.method)
        method.check_data(self.facts(method))

    def facts(self, method: Method) -> DataFacts:
        """What the method's `check_data` is asked with; descriptions only if it needs them."""
        names = self.dataset.class_names
        groups = {
            group: [names[class_id] for class_id in self.dataset.class_ids(group)]
            for group in ("base", "novel")
        }
        described = self.class_descriptions if "class_descriptions" in method.needs else None
        return DataFacts(
            self.dataset.name,
            **groups,
            training_images=len(self.unlabelled()),
            descriptions=described and described(),
        )


def fitted_facts(fitted: Fitted) -> list[object]:
    """Plain values that change with anything that a fitted method's answers depend on."""
    learnt = {name: value.cpu() for name, value in fitted.state_dict().items()}
    return [fitted.backbone.identity, fitted.record(), tensors_digest(learnt)]
