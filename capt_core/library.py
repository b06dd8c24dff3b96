"""The library: from images to a trained model in memory, without artifacts or a settings file.

`capt_core` offers these names; the stages of the command line do the same in steps that are kept.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch

from capt_core.backbone import loading
from capt_core.backbone.loading import Backbone
from capt_core.data.dataset import Dataset
from capt_core.data.preparation import draw_list
from capt_core.errors import CaptError
from capt_core.evaluation.calibration import Calibration
from capt_core.methods import calibrating
from capt_core.methods.fitting import (
    AFTER_BASE_MODEL,
    FewShotImages,
    base_method,
    fit_method,
    forget_checkpoint,
    takes_teacher,
)
from capt_core.methods.method import Need
from capt_core.methods.predicting import Images
from capt_core.methods.registry import method_class
from capt_core.methods.task import Task
from capt_core.methods.teaching import fitted_teacher
from capt_core.methods.trained import TrainedModel
from capt_core.mined import Mined, build_bank
from capt_core.params import Backbone as BackboneSettings
from capt_core.params import (
    FewShot,
    GeneratePrompts,
    Runtime,
    Settings,
    Teacher,
    check_seed,
)
from capt_core.prompts.sources import written_descriptions
from capt_core.reporter import SILENT, Reporter, reporting_to
from capt_core.settings_file import mapping, merge, validate

_BATCH = 128


def load_backbone(
    name: str = "tiny-clip",
    *,
    checkpoint: Path | str | None = None,
    pretrained: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> Backbone:
    """A frozen CLIP.

    Args:
        name: any open_clip model with a ViT or ResNet tower, or the embedded ``tiny-clip`` and
            ``tiny-clip-teacher``, which know drawn textures only.
        checkpoint: local weights (`.safetensors`, `.pt`).
        pretrained: tag of weights that open_clip downloads, where no checkpoint is given.
        device: where it runs.
        precision: of the towers; losses are always computed in fp32.

    Raises:
        CaptError: unknown model, missing or unsuitable weights, unavailable device.
    """
    path = None if checkpoint is None else str(checkpoint)
    chosen = {"name": name, "checkpoint": path, "pretrained": pretrained}
    runtime = {"device": device, "precision": precision}
    return loading.load_backbone(
        validate(BackboneSettings, chosen, "load_backbone"),
        validate(Runtime, runtime, "load_backbone"),
    )


def fit(
    method: str,
    dataset: Dataset,
    backbone: Backbone,
    *,
    shots: int = 16,
    seed: int = 1,
    base_model: str | TrainedModel = "clip",
    teacher: TrainedModel | None = None,
    settings: Mapping[str, Any] | None = None,
    prompts: Path | str | None = None,
    calibrate: bool = True,
    work: Path | None = None,
    reporter: Reporter = SILENT,
) -> TrainedModel:
    """Fit a method on few images per class.

    A method that learns from confusions first has them mined from the base model's errors on the
    same images. Pairs of classes that nothing is written about are described by templates that
    only name the classes.

    Args:
        method: name of a method, such as ``coop`` or ``capt``.
        dataset: from `open_folder` or `open_dataset`.
        backbone: the frozen CLIP.
        shots: images per class; 0 takes all training images.
        seed: of the few-shot draw and of everything random in training.
        base_model: method whose errors are studied, or a model of it; ``capt`` starts from it.
        teacher: model that a method distils from, where it needs one; its backbone may be another.
            None fits that of the packaged section ``teacher``, kept in `work` for later calls.
        settings: keys of the section ``methods.<method>`` that differ from the packaged ones.
        prompts: JSON store of written prompts about pairs of classes; None takes the shipped store
            of a benchmark, where there is one.
        calibrate: fit what makes confidences say how often they are right on validation images of
            the trained classes, 2,000 at most, which are encoded for it; answers stay the same.
        work: folder for what an interrupted training goes on from; None keeps nothing.
        reporter: takes progress and findings.

    Raises:
        CaptError: unknown method or setting, unreadable images, or as the method's own fit.
    """
    found = method_class(method)
    section = found.Settings()
    if settings:
        values = merge(section.model_dump(), mapping(settings, "fit: settings"))
        section = validate(found.Settings, values, "settings", f"methods.{method}.")
    chosen = found(section)
    shots = validate(FewShot, {"shots": shots}, "fit").shots
    seed = check_seed(seed, "fit: seed")
    fewshot = draw_list(dataset, shots, seed)
    images = FewShotImages(dataset, fewshot, backbone, reporter)
    store = None if prompts is None else str(prompts)
    with tempfile.TemporaryDirectory(prefix="capt-") as scratch, reporting_to(reporter):
        task = Task(
            dataset,
            fewshot,
            backbone,
            seed,
            shots,
            features=lambda: images.features,
            image_root=dataset.image_root,
            work=work or Path(scratch),
            checkpoint_steps=Settings().train.checkpoint_steps if work else 0,
            reporter=reporter,
            class_descriptions=lambda: written_descriptions(
                GeneratePrompts(store=store), dataset.name, dataset.classes
            ),
        )
        base = None
        if chosen.needs & AFTER_BASE_MODEL and isinstance(base_model, str):
            base = base_method(base_model, "base_model")()
        started_from = base_model.fitted.method if isinstance(base_model, TrainedModel) else base
        taken = takes_teacher(chosen, started_from) or (base and Need.TEACHER in base.needs)
        if teacher is None and taken:
            teacher = _default_teacher(task)
        task = replace(task, teacher=None if teacher is None else teacher.fitted)
        if chosen.needs & AFTER_BASE_MODEL:
            started = base_model if base is None else fit_method(base, task)
            assert isinstance(started, TrainedModel)
            found_bank = build_bank(started, dataset, shots=shots, seed=seed)
            task = Mined(found_bank, task, store).task_of(started)
        model = fit_method(chosen, task)
        if calibrate:
            model.calibration = _calibrate(model, dataset, reporter)
    forget_checkpoint(model)
    return model


def _default_teacher(task: Task) -> TrainedModel:
    """The teacher of the packaged settings, on the backbone that goes with the task's."""
    name, _, weights = task.backbone.identity.partition("@")
    # Weights of a file have a digest for a name, which no teacher's can be told by.
    tag = None if re.fullmatch("[0-9a-f]{12}", weights) else weights
    precision = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[
        task.backbone.autocast
    ]
    runtime = {"device": task.backbone.device.type, "precision": precision}
    try:
        return fitted_teacher(
            Teacher(),
            BackboneSettings(name=name, pretrained=tag),
            validate(Runtime, runtime, "fit"),
            task,
        )
    except CaptError as error:
        raise CaptError(f"{error}; or give fit a fitted teacher=MODEL") from error


def _calibrate(model: TrainedModel, dataset: Dataset, reporter: Reporter) -> Calibration | None:
    usual = Settings().train
    return calibrating.calibrate(
        model,
        dataset,
        usual.calibration_images,
        usual.calibration_precision,
        image_root=dataset.image_root,
        reporter=reporter,
    )


def predict(
    model: TrainedModel,
    images: Images,
    *,
    top: int = 5,
    on_bad_image: Literal["error", "report"] = "error",
) -> pl.DataFrame:
    """Classify images; see `TrainedModel.predict`."""
    return model.predict(images, top=top, on_bad_image=on_bad_image)
