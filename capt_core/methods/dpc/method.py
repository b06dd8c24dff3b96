"""DPC: a prompt tuned on hard negatives beside the one it was cloned from.

Li et al., "DPC: Dual-Prompt Collaboration for Tuning Vision-Language Models", CVPR 2025.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
import torch

from capt_core.backbone.loading import Backbone
from capt_core.errors import CaptError
from capt_core.learning.loop import Batch, Record
from capt_core.learning.optimisation import Optimisation
from capt_core.learning.randomness import draw_seed, generator
from capt_core.methods.capt.losses import image_given_text, pair_logits, text_given_image
from capt_core.methods.coop import CoOp
from capt_core.methods.dpc.dual import DualPrompts, Learner
from capt_core.methods.dpc.mining import Rows, enlarged, hard_negatives, random_classes
from capt_core.methods.dpc.mixing import Variant
from capt_core.methods.dpc.on_coop import DualContext
from capt_core.methods.dpc.on_promptkd import DualDistilled
from capt_core.methods.feature_training import minimise
from capt_core.methods.image_training import FewShotViews, training_views
from capt_core.methods.method import Fitted, Method, Need
from capt_core.methods.model_file import restore_base
from capt_core.methods.promptkd import PromptKD
from capt_core.methods.task import Task
from capt_core.methods.views import View, ViewSource
from capt_core.settings_file import packaged

TOPS = {"eurosat": 2}
"""Published numbers of likeliest classes where they are not `TOP`, by data set."""
TOP = 8


class DpcSettings(Optimisation, path="methods.dpc"):
    """The section ``methods.dpc``."""

    variant: Variant = packaged()
    weight_base: float = packaged(gt=0, le=1)
    weight_new: float = packaged(ge=0, le=1)
    top: int | None = packaged(ge=2, le=1000)
    negatives: Literal["full_train", "few_shot"] = packaged()


def symmetric_losses(
    images: torch.Tensor, texts: torch.Tensor, logit_scale: float
) -> dict[str, torch.Tensor]:
    """InfoNCE over the rows of a batch, in both directions; rows of one class are negatives, too.

    Args:
        images: [L, d], unit length.
        texts: of each row's class, [L, d], unit length.
        logit_scale: inverse temperature.
    """
    logits = pair_logits(images, texts, logit_scale)
    return {
        "image_to_text": -text_given_image(logits).diagonal().mean(),
        "text_to_image": -image_given_text(logits).diagonal().mean(),
    }


@dataclass(frozen=True)
class HardNegativeLoss:
    """The mean of `symmetric_losses` over anchors with their hard negatives.

    Attributes:
        learner: what is trained.
        top: see `hard_negatives`.
    """

    learner: Learner
    top: int

    def mined(
        self, images: torch.Tensor, labels: torch.Tensor, drawn: Iterator[int]
    ) -> list[list[int]]:
        """Classes of each anchor's negatives; images [B, 3, S, S] are as `mined_by` takes them."""
        probabilities, tries = self.learner.probabilities(images), len(self.learner.among)
        return hard_negatives(probabilities, labels.tolist(), self.top, drawn, tries)

    def __call__(self, rows: Rows) -> tuple[torch.Tensor, Record]:
        """Of a batch with its negatives."""
        parts = symmetric_losses(*self.learner.compared(rows), self.learner.logit_scale)
        record = {f"{name}_loss": part.item() for name, part in parts.items()}
        return torch.stack(list(parts.values())).mean(), {**record, "rows": len(rows.labels)}


@dataclass(frozen=True)
class Pool:
    """Labelled training images that negatives are drawn from.

    Attributes:
        ids: samples of each trained class.
        source: of their pixels.
        backbone: whose preprocessing they pass.
    """

    ids: Sequence[Sequence[int]]
    source: ViewSource
    backbone: Backbone

    @staticmethod
    def of(fitted: DualPrompts, task: Task) -> Pool:
        """The images that the settings name: the few-shot ones, or all of the trained classes."""
        rows = task.few_shot_rows()
        if fitted.method.settings.negatives == "full_train":
            rows = task.dataset.samples.filter(split="train")
        of_class = dict(rows.group_by("class_id").agg("sample_id").iter_rows())
        ids = [sorted(of_class[class_id]) for class_id in task.trained_classes]
        every = pl.Series([sample for own in ids for sample in own], dtype=pl.Int64)
        return Pool(ids, training_views(task, every, fitted.negatives_view), task.backbone)

    def images(self, classes: Sequence[int], draws: torch.Generator, batch: Batch) -> torch.Tensor:
        """One image of each class at random, [n, 3, S, S], with a view of its own in each step."""
        number = draw_seed("negatives", batch.step, batch.number)
        views = []
        for own in (self.ids[each] for each in classes):
            index = int(torch.randint(len(own), (), generator=draws))
            views.append(View(own[index], number))
        return self.source.pixels(views, self.backbone)


class Dpc(Method):
    """What its base model learned stays for new classes; a clone is tuned for the trained ones.

    `decoupled` is the paper's method, `released` what its code computes: see `mixing`.
    """

    name = "dpc"
    label = "DPC"
    citation = "Li et al., CVPR 2025"
    needs = frozenset({Need.PIXELS, Need.BASE_MODEL, Need.BASE_TEACHER})
    compares_texts = False
    Settings = DpcSettings

    def check_base(self, base: Method) -> None:
        dual_kind(base)

    def top(self, dataset: str) -> int:
        """How many likeliest classes are looked at for a data set."""
        given: int | None = self.settings.top
        return TOPS.get(dataset, TOP) if given is None else given

    def fit(self, task: Task) -> DualPrompts:
        base, backbone = task.base_model, task.backbone
        assert base is not None
        trained = task.trained_classes
        if len(trained) < 2:
            raise CaptError(
                f"{task.dataset.name}: dpc contrasts an image with classes that it is taken for, "
                "and a single class is trained"
            )
        names = [task.dataset.class_names[class_id] for class_id in trained]
        fitted = dual_kind(base.method).cloned(self, base, names, task.teacher)
        fitted.to(backbone.device).train()
        spoken = [task.dataset.prompt_names[class_id] for class_id in trained]
        learner = fitted.learner(spoken, task.teacher)
        anchors, pool = FewShotViews.of(self, task), Pool.of(fitted, task)
        loss = HardNegativeLoss(learner, self.top(task.dataset.name))

        def loss_of(batch: Batch) -> tuple[torch.Tensor, Record]:
            draws = generator("negatives", task.seed, batch.step, batch.number)
            images, labels = anchors(batch)
            seen = images
            if learner.mined_by.preprocess != backbone.preprocess:
                seen = anchors.images(batch, learner.mined_by)
            negatives = loss.mined(seen, labels, random_classes(learner.among, draws))
            given = Rows(images, labels)
            return loss(enlarged(given, negatives, lambda each: pool.images(each, draws, batch)))

        count, parameters = len(anchors.ids), fitted.tuned_parameters()
        minimise(self, task, fitted, parameters, count, loss_of)
        learner.keep_texts()
        return fitted.cpu()

    def restore(
        self, backbone: Backbone, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> DualPrompts:
        base = restore_base(facts["base"], tensors, backbone)
        return dual_kind(base.method).restored(self, base, facts["names"], tensors)

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        base = task.base_model
        assert base is not None
        found = ["all base training images (shots)"] if task.shots == 0 else []
        if self.settings.negatives == "full_train":
            found.append("all base training images (negatives)")
        return list(dict.fromkeys([*found, *base.method.sees(task, base)]))


def dual_kind(base: Method) -> type[DualPrompts]:
    """What is tuned from a base model of some method.

    Raises:
        CaptError: it has no prompt that can be tuned so.
    """
    if isinstance(base, CoOp):
        if base.settings.class_specific:
            raise CaptError(
                "dpc: tunes one context for all classes, and its base model has one for each; "
                "set methods.coop.class_specific=false"
            )
        return DualContext
    if isinstance(base, PromptKD):
        return DualDistilled
    raise CaptError(
        f"dpc: tunes the prompt of a base model fitted with coop or promptkd, and this one is of "
        f"{base.name}; set fit_teacher.method=coop, in Python base_model='coop'"
    )
