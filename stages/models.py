"""What the stages share that fit or apply methods."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import polars as pl
import torch

from capt_core.advice import quoted, run_stage
from capt_core.artifacts.features import ImageFeatures, read_image_features
from capt_core.artifacts.provenance import Provenance
from capt_core.backbone.identity import backbone_identity
from capt_core.backbone.loading import Backbone, load_backbone, shared_backbones
from capt_core.data.dataset import Dataset, image_root, load_fewshot
from capt_core.errors import CaptError, cut, shown
from capt_core.methods.fitting import feature_blocks, takes_teacher
from capt_core.methods.method import Fitted, Method
from capt_core.methods.model_file import load_model, open_model
from capt_core.methods.registry import configured_method
from capt_core.methods.task import Task
from capt_core.methods.teaching import fitted_teacher
from capt_core.methods.trained import TrainedModel
from capt_core.params import Settings

from .backbones import remembered
from .invocation import Run, reporter, say


def chosen_method(run: Run, name: str) -> Method:
    """A method with its section of the settings.

    Raises:
        CaptError: unknown method, or a mistake in its section.
    """
    found = run.sources
    return configured_method(name, found.path, found.dataset, found.overrides, found.change)


def base_model(run: Run, backbone: Backbone, origin: Provenance) -> TrainedModel:
    """The base model that fit-teacher wrote.

    Raises:
        CaptError: missing, damaged or foreign file.
    """
    path = run.seed_layout.base_model
    return load_model(path, backbone, expected=origin, remedy=run_stage("fit-teacher", path))


def trained_model(path: Path, settings: Settings) -> TrainedModel:
    """A trained model from its file alone, or on the backbone of the settings.

    A file that holds its backbone, and a model of the embedded one, need no settings but those of
    the device. For others the settings name the backbone; or it is the one that `train` had, where
    the model lies among its artifacts.

    Raises:
        CaptError: missing, damaged or foreign file, or settings of another backbone; the message
            says which to give.
    """
    file = open_model(path)
    if file.has_backbone:
        return file.model(file.own_backbone(settings.runtime))
    if backbone_identity(settings.backbone) == file.identity:
        return file.model(load_backbone(settings.backbone, settings.runtime))
    found = remembered(path, file.identity)
    if found is not None:
        say(f"backbone: {found.name} of {found.checkpoint or found.pretrained}, as in training")
        return file.model(load_backbone(found, settings.runtime))
    raise CaptError(f"{path}: trained on {shown(file.identity)}; give {_backbone(file.identity)}")


def _backbone(identity: str) -> str:
    """The settings of a backbone as they are given on the command line."""
    name, _, weights = identity.partition("@")
    name = quoted(f"backbone.name={cut(name)}")
    if re.fullmatch("[0-9a-f]{12}", weights):
        return f"--set {name} --set backbone.checkpoint=FILE, with those weights in FILE"
    return f"--set {name} --set {quoted(f'backbone.pretrained={cut(weights)}')}"


def few_shot_task(run: Run, dataset: Dataset, backbone: Backbone, origin: Provenance) -> Task:
    """The few-shot task of a run, without what is mined from a base model."""
    settings, layout = run.settings, run.layout
    return Task(
        dataset,
        load_fewshot(layout, dataset, settings.fewshot.shots, run.seed),
        backbone,
        run.seed,
        settings.fewshot.shots,
        features=cache(lambda: read_image_features(layout.image_features, origin)),
        image_root=image_root(layout, settings.data.root),
        work=layout.work,
        checkpoint_steps=settings.train.checkpoint_steps,
        workers=settings.runtime.workers,
        reporter=reporter(),
    )


def teacher_of(run: Run, method: Method, task: Task) -> Fitted | None:
    """The teacher that a method takes, if it does; fitted where no method has had it yet.

    Raises:
        CaptError: as `fitted_teacher`.
    """
    base = None if task.base_model is None else task.base_model.method
    if not takes_teacher(method, base):
        return None
    settings = run.settings
    with shared_backbones():  # keeps the student's shared one
        model = fitted_teacher(settings.teacher, settings.backbone, settings.runtime, task)
    return model.fitted


def model_features(
    run: Run, model: TrainedModel, dataset: Dataset, ids: pl.Series, stored: ImageFeatures
) -> Iterator[tuple[pl.Series, torch.Tensor]]:
    """A model's features of some samples a block at a time; see `feature_blocks`."""
    # Where stored features are taken, the images need not be there any more.
    frozen = model.fitted.frozen_tower
    root = None if frozen else image_root(run.layout, run.settings.data.root)
    return feature_blocks(
        model.fitted,
        dataset,
        ids,
        stored,
        root,
        run.settings.evaluate.batch_size,
        run.settings.runtime.workers,
        reporter(),
    )
