"""Stage fit-teacher: the base model whose errors are studied."""

from __future__ import annotations

from capt_core.artifacts.features import (
    feature_column,
    read_image_features,
    read_text_features,
)
from capt_core.artifacts.schemas import TEACHER_TEXT_FEATURES
from capt_core.artifacts.tables import write_table
from capt_core.backbone.loading import load_backbone
from capt_core.data.dataset import load_dataset, load_fewshot
from capt_core.methods.coop import context_features, fit_context, shown_prompts
from capt_core.methods.fitting import few_shot_features
from capt_core.methods.teacher import UNTRAINED_WARNING, Teacher, write_teacher
from capt_core.params import settings_hash

from . import options
from .run import progress, say, stage_run
from .stage import Stage

STAGE = Stage(
    summary="the base model whose errors are studied: zero-shot CLIP or another fitted method",
    per=("dataset", "seed"),
    params=(
        "backbone",
        "data.root",
        "fewshot.shots",
        "fit_teacher",
        "methods.${fit_teacher.method}",
        "runtime",
    ),
    reads=lambda at: (*at.dataset, at.fewshot, at.data.images, at.data.image_features),
    writes=lambda at: (at.seed.base_model, at.seed.base_text_features),
)


def main(
    dataset: options.Dataset,
    seed: options.Seed = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
    variant: options.Variant = None,
) -> None:
    """Fit the base model whose errors are studied."""
    with stage_run("fit-teacher", dataset, seed, params, artifacts, set_, variant=variant) as run:
        settings, layout, paths = run.settings, run.layout, run.seed_layout
        prepared = load_dataset(layout)
        backbone = load_backbone(settings.backbone, settings.runtime)
        origin = prepared.provenance(
            backbone.identity, settings_hash(settings.fit_teacher, run.seed)
        )
        prompts = prepared.prompts
        texts = read_text_features(layout.text_features, origin)
        if settings.fit_teacher.method == "coop":
            fewshot = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
            images = read_image_features(layout.image_features, origin)
            names = prepared.spoken_names
            with progress("epochs", settings.fit_teacher.epochs) as advance:
                context, log = fit_context(
                    few_shot_features(prepared, fewshot, images),
                    [names[class_id] for class_id in prepared.class_ids("base")],
                    backbone,
                    settings.fit_teacher,
                    run.seed,
                    advance,
                )
            prompts = shown_prompts(names, len(context))
            texts = context_features(context, names, backbone)
            say(f"{len(log)} steps, loss {log['loss'][0]:.3f} to {log['loss'][-1]:.3f}")
        write_table(
            TEACHER_TEXT_FEATURES,
            prepared.text_table(prompts).with_columns(feature_column(texts)),
            paths.teacher_text_features,
            origin,
        )
        teacher = Teacher(settings.fit_teacher.method, backbone.logit_scale, backbone.untrained)
        write_teacher(paths.teacher, teacher, origin)
        say(f"{teacher.method} on {backbone.identity} ({backbone.device}) -> {paths.teacher}")
        if teacher.untrained:
            say(UNTRAINED_WARNING)
