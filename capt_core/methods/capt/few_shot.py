"""What CAPT computes from the features of its few-shot images, once it is trained."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import polars as pl
import torch
from torch.nn import functional

from capt_core.methods.capt.diagnosis import common_share, output_norm
from capt_core.methods.capt.joint_space import JointSpace
from capt_core.methods.capt.model import CaptModel
from capt_core.methods.capt.pair_expert import ConfusedPairExpert, ConfusedPairs
from capt_core.methods.capt.settings import CaptSettings, Experts
from capt_core.methods.capt.views import Views
from capt_core.methods.capt.within_class import WithinClass, whitening
from capt_core.methods.descriptions import retained_texts
from capt_core.methods.feature_training import class_positions
from capt_core.methods.gda import fitted_discriminant
from capt_core.methods.image_tower import ImageTower
from capt_core.methods.method import Fitted
from capt_core.methods.task import Task
from capt_core.methods.views import View

BATCH = 64


def shares_space(base: Fitted) -> bool:
    """Whether a base model compares what its tower gives with texts as they are."""
    plain = type(base).adapt is Fitted.adapt and type(base.image_tower()).head is ImageTower.head
    return plain and base.text_backbone() is base.backbone


def confused_pairs(statistics: pl.DataFrame, class_ids: list[int]) -> list[tuple[int, int]]:
    """Pairs of classes of which the bank has an image of one taken for the other, each once.

    Args:
        statistics: the table `confusion_statistics`.
        class_ids: the classes; pairs with others are left out.

    Returns:
        Positions among `class_ids`, the lower one first.
    """
    place = {class_id: index for index, class_id in enumerate(class_ids)}
    rows = statistics.select("true_class_id", "predicted_class_id").iter_rows()
    found = ((place[one], place[other]) for one, other in rows if one in place and other in place)
    return sorted({(min(pair), max(pair)) for pair in found if pair[0] != pair[1]})


def unconfused_pairs(
    pairs: Sequence[tuple[int, int]], classes: int, seed: int
) -> list[tuple[int, int]]:
    """As many other pairs, or all there are: a control for which pairs are confused.

    Args:
        pairs: positions among the classes, the lower one first.
        classes: how many there are.
        seed: of the draw.
    """
    others = sorted(set(combinations(range(classes), 2)) - set(pairs))
    return sorted(random.Random(seed).sample(others, min(len(pairs), len(others))))


def asked_of_images(settings: CaptSettings) -> list[str]:
    """What settings ask for that needs images of one class that differ."""
    asked = {
        "confused_pair": "confused_pair" in settings.experts.granularities,
        "whitening": settings.whitening.shrinkage < 1,
        "discriminant": settings.discriminant.weight > 0,
    }
    return [name for name, given in asked.items() if given]


@torch.no_grad()
def trained_features(
    model: CaptModel, base: Fitted, sample_ids: Sequence[int], views: Views
) -> torch.Tensor:
    """Features of images that are looked at as they are, from what training has of them.

    Args:
        model: trained.
        base: what it was trained on.
        sample_ids: the images.
        views: of the training, without augmentation.

    Returns:
        Unit length, [n, d], on the CPU; equal to the model's own up to rounding.
    """
    found = []
    for start in range(0, len(sample_ids), BATCH):
        tokens = views([View(number) for number in sample_ids[start : start + BATCH]]).tokens
        with base.backbone.precision():
            alpha = model.running_alpha.to(tokens.dtype).expand(len(tokens))
            features, _ = model.features(tokens, alpha, class_token_only=True)
        found.append(base.adapt(functional.normalize(features.float(), dim=-1)).cpu())
    return torch.cat(found)


@dataclass(frozen=True)
class FewShotSpace:
    """The few-shot images as a trained model sees them, and what follows from them.

    Attributes:
        task: that the model was trained on.
        class_ids: the trained classes that have images.
        features: unit length, [n, d], on the CPU.
        labels: positions among `class_ids`, [n].
        within: means of the classes, and how their images differ.
    """

    task: Task
    class_ids: list[int]
    features: torch.Tensor
    labels: torch.Tensor
    within: WithinClass

    @staticmethod
    def of(task: Task, features: torch.Tensor) -> FewShotSpace | None:
        """That of features of `Task.few_shot_rows`, unit length, [n, d].

        Returns:
            None where no two images of a class differ.
        """
        drawn = task.few_shot_rows()
        given = set(drawn["class_id"].to_list())
        class_ids = [class_id for class_id in task.trained_classes if class_id in given]
        labels = class_positions(torch.tensor(drawn["class_id"].to_list()), class_ids)
        within = WithinClass.of(features, labels)
        return None if within is None else FewShotSpace(task, class_ids, features, labels, within)

    @property
    def names(self) -> list[str]:
        """Of the classes that have images."""
        return [self.task.dataset.class_names[class_id] for class_id in self.class_ids]

    def joint_space(
        self, base: Fitted, texts: torch.Tensor, settings: CaptSettings
    ) -> tuple[JointSpace, tuple[str, ...]]:
        """The expert and the whitening that are asked for, and what of them cannot be had.

        Args:
            base: the base model.
            texts: of all classes, unit length, [C, d].
            settings: of the method.

        Returns:
            The space, and what `Fitted.left_out` says of it.
        """
        space, left_out = JointSpace(), tuple[str, ...]()
        if "confused_pair" in settings.experts.granularities:
            pairs, known = self._pairs(settings.experts)
            if pairs:
                space.pair_expert = self._pair_expert(pairs, base, texts, settings.experts)
            else:
                has = "an error of every pair" if known else "no error of one class for another"
                left_out = (f"without confused_pair: the bank has {has}",)
        shrinkage = settings.whitening.shrinkage
        if shrinkage < 1:
            space.whitening = whitening(self.within.shrunk(shrinkage)).float()
        return space, left_out

    def _pairs(self, settings: Experts) -> tuple[list[tuple[int, int]], int]:
        """Pairs of the expert, and how many the bank has errors of."""
        task = self.task
        assert task.confusions is not None
        known = confused_pairs(task.confusions().statistics, self.class_ids)
        if settings.pairs == "confused":
            return known, len(known)
        pairs = unconfused_pairs(known, len(self.class_ids), task.seed)
        if 0 < len(pairs) < len(known):
            task.reporter.warn(f"only {len(pairs)} pairs are not confused, {len(known)} are")
        return pairs, len(known)

    def _pair_expert(
        self,
        pairs: Sequence[tuple[int, int]],
        base: Fitted,
        texts: torch.Tensor,
        settings: Experts,
    ) -> ConfusedPairExpert:
        task = self.task
        mined = ConfusedPairs(
            pairs,
            texts[self.class_ids],
            retained_texts(task, texts, "generic", base.text_backbone()).cpu(),
            task.backbone.logit_scale,
            settings.shrinkage,
            settings.pair_strength,
        )
        found = mined.expert(self.within)
        moved = found(self.features)
        task.reporter.say(
            f"confused pairs: {len(pairs)}, moved by {output_norm(moved):.2f}, "
            f"{100 * common_share(moved):.0f} % of it common to all images"
        )
        return found

    def told(self, space: JointSpace) -> tuple[list[str], torch.Tensor, torch.Tensor]:
        """Names of the classes, and weight and bias of their discriminant behind a joint space."""
        where = f"{self.task.dataset.name}: methods.capt.discriminant"
        return self.names, *fitted_discriminant(space(self.features), self.labels, where)
