"""Stage fit-teacher: the base model whose errors are studied."""

from __future__ import annotations

from capt_core.artifacts.features import feature_column
from capt_core.artifacts.schemas import BASE_TEXT_FEATURES
from capt_core.artifacts.tables import write_table
from capt_core.backbone.loading import UNTRAINED_WARNING, load_backbone
from capt_core.data.dataset import load_dataset
from capt_core.methods.fitting import base_method, fit_method

from .invocation import Run, say
from .models import chosen_method, few_shot_task
from .stage import Stage

STAGE = Stage(
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


def main(run: Run) -> None:
    settings, paths = run.settings, run.seed_layout
    base_method(settings.fit_teacher.method, "fit_teacher.method")
    method = chosen_method(run, settings.fit_teacher.method)
    prepared = load_dataset(run.layout)
    backbone = load_backbone(settings.backbone, settings.runtime)
    origin = prepared.provenance(backbone.identity)
    model = fit_method(method, few_shot_task(run, prepared, backbone, origin))
    texts = model.fitted.class_texts(model.classes).cpu()
    prompts = model.fitted.readable_prompts(model.classes)
    write_table(
        BASE_TEXT_FEATURES,
        prepared.text_table(prompts).with_columns(feature_column(texts)),
        paths.base_text_features,
        model.provenance,
    )
    model.save(paths.base_model)
    say(f"{method.name} on {backbone.identity} ({backbone.device}) -> {paths.base_model}")
    if backbone.untrained:
        say(UNTRAINED_WARNING)
