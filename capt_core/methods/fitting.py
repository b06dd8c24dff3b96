"""Fitting any method on a task, and applying it to a data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl
import torch

from capt_core.artifacts.features import Features
from capt_core.artifacts.table_blocks import spans
from capt_core.backbone.encoding import encode_images
from capt_core.backbone.loading import Backbone
from capt_core.data.dataset import Dataset
from capt_core.data.images import image_batches
from capt_core.errors import CaptError
from capt_core.evaluation.predictions import GROUPS, Scorers
from capt_core.methods.classes import Classes
from capt_core.methods.method import BASE_ONLY, Fitted, Method, Need
from capt_core.methods.registry import BASE_METHOD, method_class
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from capt_core.params import settings_hash
from capt_core.reporter import SILENT, Reporter

_BATCH = 128

AFTER_BASE_MODEL = frozenset({Need.DESCRIPTIONS, Need.CONFUSIONS, Need.BASE_MODEL})
"""Needs that are only met once a base model has been fitted."""


def fit_method(method: Method, task: Task) -> TrainedModel:
    """Fit a method and make a model of it, on its backbone's device.

    Raises:
        CaptError: the task lacks what the method needs, or as the method's own `fit`.
    """
    task.check(method)
    fitted = method.fit(task).eval().to(task.backbone.device)
    used = settings_hash(method.settings, task.seed)
    origin = task.dataset.provenance(task.backbone.identity, used)
    sees = "; ".join([*(method.sees(task, fitted) or [BASE_ONLY]), *fitted.left_out])
    return TrainedModel(fitted, Classes.of(task.dataset), sees, task.seed, origin)


def forget_checkpoint(model: TrainedModel) -> None:
    """Remove what an interrupted training would have gone on from; its model is kept elsewhere."""
    run = model.fitted.training_run
    if run is not None and run.checkpoint is not None:
        run.checkpoint.remove()


def base_method(name: str, where: str) -> type[Method]:
    """A method that a base model can be fitted with before anything is mined.

    Args:
        name: of the method.
        where: setting or argument that names it, for the message.

    Raises:
        CaptError: unknown, learns from what is mined from a base model, or compares images with
            more than class texts.
    """
    found = method_class(name)
    if found.needs & AFTER_BASE_MODEL:
        raise CaptError(
            f"{where}: {name} needs what is mined from a base model's errors or written after "
            "it, so it cannot be fitted before one; choose another, such as clip or coop"
        )
    if not found.compares_texts:
        raise CaptError(
            f"{where}: {name} tells images by more than class texts, which is all that a "
            "method can start from; choose another, such as clip or coop"
        )
    return found


def takes_teacher(method: Method, base: Method | None) -> bool:
    """Whether a method is given a teacher: its own, or that of its base model."""
    of_base = base is not None and Need.TEACHER in base.needs
    return Need.TEACHER in method.needs or (of_base and Need.BASE_TEACHER in method.needs)


@dataclass(frozen=True)
class FewShotImages:
    """Frozen features of the drawn images; the others, which nobody may read, are NaN."""

    dataset: Dataset
    fewshot: pl.DataFrame
    backbone: Backbone
    reporter: Reporter

    @cached_property
    def features(self) -> torch.Tensor:
        """Unit length, [N, d], by sample id."""
        plain = Fitted(method_class(BASE_METHOD)(), self.backbone)
        ids = self.fewshot["sample_id"].unique().sort()
        encoded = dataset_features(plain, self.dataset, ids, None, None, _BATCH, 2, self.reporter)
        features = torch.full((len(self.dataset.samples), encoded.shape[1]), float("nan"))
        features[ids.to_list()] = encoded
        return features


@torch.no_grad()
def group_scorers(fitted: Fitted, dataset: Dataset, texts: torch.Tensor | None = None) -> Scorers:
    """The `Fitted.scorer` of each half of a data set's classes: images of a half are scored alone.

    Args:
        fitted: any.
        dataset: classes.
        texts: `Fitted.class_texts` of all classes, [C, d], where they are at hand.

    Raises:
        CaptError: as `Fitted.scorer`.
    """
    classes = Classes.of(dataset)
    return {
        group: fitted.scorer(classes.only(members), None if texts is None else texts[members])
        for group in GROUPS
        if (members := dataset.class_ids(group))
    }


@torch.no_grad()
def feature_blocks(
    fitted: Fitted,
    dataset: Dataset,
    sample_ids: pl.Series,
    stored: Features,
    image_root: Path | None,
    batch_size: int,
    workers: int,
    reporter: Reporter = SILENT,
) -> Iterator[tuple[pl.Series, torch.Tensor]]:
    """`dataset_features` a block of samples at a time, with their ids, in order."""
    blocks = [sample_ids[span.start : span.stop] for span in spans(len(sample_ids))]
    if fitted.frozen_tower:
        long = len(blocks) > 1
        with (reporter if long else SILENT).progress("images", len(sample_ids)) as advance:
            for ids in blocks:
                features = stored.rows(ids)
                yield ids, fitted.adapt(features.to(fitted.backbone.device)).cpu()
                advance(len(ids))
        return
    with reporter.progress("encoded", len(sample_ids)) as advance:
        for ids in blocks:
            backbone = fitted.backbone
            images = dataset.images(ids, image_root)
            batches = image_batches(images, backbone.preprocess, batch_size, workers)
            features = encode_images(batches, backbone, fitted.encode, advance)
            yield ids, fitted.adapt(features.to(backbone.device)).cpu()


@torch.no_grad()
def dataset_features(
    fitted: Fitted,
    dataset: Dataset,
    sample_ids: pl.Series,
    stored: torch.Tensor | None,
    image_root: Path | None,
    batch_size: int,
    workers: int,
    reporter: Reporter = SILENT,
) -> torch.Tensor:
    """A fitted method's features of some samples, unit length, [N, d], on the CPU.

    Args:
        fitted: on its backbone's device.
        dataset: samples.
        sample_ids: whose features.
        stored: frozen features of all samples, taken where the method leaves the tower as it is;
            None encodes the images in any case.
        image_root: folder that sample paths are relative to.
        batch_size: images per forward pass.
        workers: threads that decode.
        reporter: takes progress.
    """
    if fitted.frozen_tower and stored is not None:
        features = stored[sample_ids.to_list()]
    else:
        backbone = fitted.backbone
        batches = image_batches(
            dataset.images(sample_ids, image_root), backbone.preprocess, batch_size, workers
        )
        with reporter.progress("encoded", len(sample_ids)) as advance:
            features = encode_images(batches, backbone, fitted.encode, advance)
    return fitted.adapt(features.to(fitted.backbone.device)).cpu()
