"""Stage fit-teacher: the base model whose errors are studied, fitted or read from a file."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import polars as pl

from capt_core.artifacts.features import feature_column
from capt_core.artifacts.schemas import BASE_TEXT_FEATURES
from capt_core.artifacts.tables import write_table
from capt_core.backbone.loading import UNTRAINED_WARNING, Backbone, load_backbone
from capt_core.data.dataset import Dataset, load_dataset
from capt_core.methods.fitting import base_method, fit_method, forget_checkpoint
from capt_core.methods.importing.model import (
    Imported,
    class_names,
    findings,
    imported_model,
    read_checkpoint,
)
from capt_core.methods.method import Need
from capt_core.methods.trained import TrainedModel
from capt_core.prompts.generation import class_descriptions
from capt_core.prompts.sources import available_descriptions

from .describing import description_forms
from .invocation import Run, progress, say, warn
from .models import chosen_method, few_shot_task, teacher_of
from .stage import Stage

_DESCRIBING = tuple(
    f"generate_prompts.{key}"
    for key in (
        "provider",
        "store",
        "attributes",
        "sentences",
        "model",
        "instructions",
        "answers",
    )
)

STAGE = Stage(
    per=("dataset", "seed"),
    params=(
        "backbone",
        "data.root",
        "fewshot.shots",
        "fit_teacher",
        "methods.${fit_teacher.method}",
        "runtime",
        "train.checkpoint_steps",
    ),
    params_for={
        **dict.fromkeys(_DESCRIBING, Need.CLASS_DESCRIPTIONS),
        "teacher": Need.TEACHER,
    },
    reads=lambda at: (*at.dataset, at.fewshot, at.data.images, at.data.image_features),
    writes=lambda at: (at.seed.base_model, at.seed.base_text_features),
)


def main(run: Run) -> None:
    settings = run.settings
    base_method(settings.fit_teacher.method, "fit_teacher.method")
    prepared = load_dataset(run.layout)
    backbone = load_backbone(settings.backbone, settings.runtime)
    if settings.fit_teacher.checkpoint is None:
        method = chosen_method(run, settings.fit_teacher.method)
        origin = prepared.provenance(backbone.identity)
        task = replace(
            few_shot_task(run, prepared, backbone, origin),
            class_descriptions=cache(lambda: descriptions(run, prepared)),
        )
        model = fit_method(method, replace(task, teacher=teacher_of(run, method, task)))
    else:
        model = imported_model(read(run, prepared, backbone), prepared, run.seed)
    keep(run, prepared, model)
    forget_checkpoint(model)


def descriptions(run: Run, prepared: Dataset) -> pl.DataFrame:
    """The table `class_descriptions` without answers about pairs, which are not mined yet.

    Raises:
        CaptError: as `available_descriptions`.
    """
    settings = run.settings
    forms = description_forms(settings, [settings.fit_teacher.method])
    stores = available_descriptions(
        prepared, forms, settings.generate_prompts, settings.backbone, progress, say, warn
    )
    return class_descriptions(prepared.classes, stores)


def read(run: Run, prepared: Dataset, backbone: Backbone) -> Imported:
    """The base model that the settings' checkpoint holds, with what was found out about it.

    Raises:
        CaptError: as `read_checkpoint`.
    """
    settings = run.settings.fit_teacher
    assert settings.checkpoint is not None
    method = chosen_method(run, settings.method)
    path = Path(settings.checkpoint).expanduser()
    found = read_checkpoint(path, method, backbone, class_names(prepared))
    for line in findings(found, prepared):
        say(line)
    for line in found.warnings:
        warn(line)
    return found


def keep(run: Run, prepared: Dataset, model: TrainedModel) -> None:
    """Write the base model and what it compares images with."""
    paths, backbone = run.seed_layout, model.fitted.backbone
    texts = model.fitted.class_texts(model.classes).cpu()
    prompts = model.fitted.readable_prompts(model.classes)
    write_table(
        BASE_TEXT_FEATURES,
        prepared.text_table(prompts).with_columns(feature_column(texts)),
        paths.base_text_features,
        model.provenance,
    )
    model.save(paths.base_model)
    say(f"{model.method} on {backbone.identity} ({backbone.device}) -> {paths.base_model}")
    if backbone.untrained:
        say(UNTRAINED_WARNING)
