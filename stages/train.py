"""Stage train: fit a method on the frozen backbone."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache

from capt_core.artifacts.features import read_prompt_centres
from capt_core.artifacts.files import write_json, write_text
from capt_core.artifacts.schemas import (
    CLASS_DESCRIPTIONS,
    CONFUSION_STATISTICS,
    PROMPTS,
    REPRESENTATIVES,
    TRAINING_LOG,
    TRAINING_SPEED,
)
from capt_core.artifacts.tables import read_table, write_table
from capt_core.backbone.loading import load_backbone
from capt_core.data.dataset import load_dataset
from capt_core.learning.loop import log_frame
from capt_core.methods.calibrating import calibrate
from capt_core.methods.fitting import fit_method, forget_checkpoint
from capt_core.methods.method import Need
from capt_core.methods.task import Confusions

from .backbones import remember
from .invocation import Run, first_process, say
from .models import base_model, chosen_method, few_shot_task, teacher_of
from .stage import Stage

STAGE = Stage(
    per=("dataset", "method", "seed"),
    params=(
        "backbone",
        "build_bank.source",
        "data.root",
        "fewshot.shots",
        "methods.${item.method}",
        "runtime",
        "train",
    ),
    params_for={"teacher": Need.TEACHER},
    reads=lambda at: (
        *at.dataset,
        at.fewshot,
        at.data.images,
        at.data.image_features,
        at.seed.base_model,
        at.seed.prompts,
        at.seed.class_descriptions,
        at.seed.prompt_centres,
        at.seed.representatives,
        at.seed.confusion_statistics,
    ),
    reads_for=lambda at: {
        at.seed.base_model: {Need.BASE_MODEL},
        at.seed.prompts: {Need.DESCRIPTIONS},
        # With `describe: all`, methods with prompts about pairs take them from both tables.
        at.seed.class_descriptions: {Need.CLASS_DESCRIPTIONS, Need.DESCRIPTIONS},
        at.seed.prompt_centres: {Need.CONFUSIONS},
        at.seed.representatives: {Need.CONFUSIONS},
        at.seed.confusion_statistics: {Need.CONFUSIONS},
    },
    writes=lambda at: (at.run.model, at.run.training_log),
    plots=lambda at: {at.run.loss_plot: {"x": "step", "y": "loss", "title": "Training loss"}},
)


def main(run: Run) -> None:
    chosen = chosen_method(run, run.method)
    settings, layout, paths = run.settings, run.layout, run.seed_layout
    prepared = load_dataset(layout)
    backbone = load_backbone(settings.backbone, settings.runtime)
    origin = prepared.provenance(backbone.identity)
    if first_process():
        remember(run.artifacts, settings.backbone, backbone.identity)
    needs_base = Need.BASE_MODEL in chosen.needs

    @cache
    def confusions() -> Confusions:
        return Confusions(
            read_prompt_centres(paths.prompt_centres, origin),
            read_table(REPRESENTATIVES, paths.representatives, origin),
            read_table(CONFUSION_STATISTICS, paths.confusion_statistics, origin),
            settings.build_bank.source,
        )

    task = few_shot_task(run, prepared, backbone, origin)
    task = replace(
        task,
        prompts=cache(lambda: read_table(PROMPTS, paths.prompts, origin)),
        class_descriptions=cache(
            lambda: read_table(CLASS_DESCRIPTIONS, paths.class_descriptions, origin)
        ),
        confusions=confusions,
        base_model=base_model(run, backbone, origin).fitted if needs_base else None,
    )
    task = replace(task, teacher=teacher_of(run, chosen, task))
    began = time.process_time()
    model = fit_method(chosen, task)
    seconds: float | None = time.process_time() - began
    if not first_process():
        return
    model.calibration = calibrate(
        model,
        prepared,
        settings.train.calibration_images,
        settings.train.calibration_precision,
        task.features,
        task.image_root,
        settings.runtime.workers,
        task.reporter,
    )
    trained, written = model.fitted.training_run, run.method_layout
    log = log_frame([]) if trained is None else trained.log
    if trained is not None and trained.interrupted:
        seconds = None  # of some steps only
    effort = {"parameters": model.fitted.trained_parameters, "processor_seconds": seconds}
    write_json(run.record_path("effort", ".json"), effort)
    if trained is not None:
        write_table(TRAINING_SPEED, trained.speed, run.record_path("speed"), model.provenance)
    write_table(TRAINING_LOG, log, written.training_log, model.provenance)
    write_text(written.loss_plot, log.select("step", "loss").write_csv())
    model.save(written.model)
    forget_checkpoint(model)
    say(f"{run.method}: {len(log)} steps -> {written.model}")
