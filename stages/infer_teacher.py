"""Stage infer-teacher: what the base model takes every image for."""

from __future__ import annotations

import numpy as np
import polars as pl

from capt_core.artifacts.features import ImageFeatures
from capt_core.artifacts.schemas import LIKELY_CLASSES, MEAN_CONFIDENCES, PREDICTIONS
from capt_core.artifacts.table_blocks import table_writer
from capt_core.artifacts.tables import write_table
from capt_core.backbone.loading import load_backbone
from capt_core.confusion.imported import imported_identity
from capt_core.confusion.likely import ConfidenceSums, DrawnConfidences
from capt_core.data.dataset import load_dataset, load_fewshot
from capt_core.data.protocol import ALL_CLASSES
from capt_core.evaluation.doubts import doubts
from capt_core.evaluation.metrics import accuracy
from capt_core.evaluation.predictions import classified
from capt_core.methods.fitting import group_scorers
from capt_core.params import settings_hash

from .invocation import Run, say, warn
from .models import base_model, model_features
from .stage import Stage

STAGE = Stage(
    per=("dataset", "seed"),
    params=(
        "backbone",
        "data.root",
        "evaluate.batch_size",
        "fewshot.shots",
        "infer_teacher",
        "runtime",
    ),
    reads=lambda at: (
        *at.dataset,
        at.fewshot,
        at.data.images,
        at.data.image_features,
        at.seed.base_model,
    ),
    writes=lambda at: (
        at.seed.predictions,
        at.seed.likely_classes,
        at.seed.mean_confidences,
    ),
)


def main(run: Run) -> None:
    settings, layout, paths = run.settings, run.layout, run.seed_layout
    prepared = load_dataset(layout)
    backbone = load_backbone(settings.backbone, settings.runtime)
    origin = prepared.provenance(backbone.identity, settings_hash(settings.infer_teacher, run.seed))
    model = base_model(run, backbone, origin)
    scorers = group_scorers(model.fitted, prepared)
    stored = ImageFeatures(layout.image_features, origin)
    fewshot = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
    drawn = np.zeros(len(prepared.samples), dtype=bool)
    drawn[fewshot.filter(pl.col("split") == "train")["sample_id"]] = True
    base, counted = prepared.class_ids("base"), list[pl.DataFrame]()
    sums = ConfidenceSums(len(base))
    if imported := imported_identity(paths.predictions):
        warn(
            f"{paths.predictions}: replaces imported predictions ({imported}); "
            "import them again, or into a --run NAME of their own, to have both"
        )
    with (
        table_writer(PREDICTIONS, paths.predictions, origin) as predicted,
        table_writer(LIKELY_CLASSES, paths.likely_classes, origin) as likely,
    ):
        kept = {"base": DrawnConfidences(drawn, base, sums, likely)}
        every, top = prepared.samples["sample_id"], settings.infer_teacher.top_classes
        for ids, features in model_features(run, model, prepared, every, stored):
            table = classified(prepared, ids, features, scorers, top, kept)
            predicted(table)
            counted.append(table.select("split", "group", "correct"))
    write_table(MEAN_CONFIDENCES, sums.means().table(prepared), paths.mean_confidences, origin)
    answers = pl.concat(counted)
    for (split, group), part in answers.group_by("split", "group", maintain_order=True):
        named = split if prepared.protocol == ALL_CLASSES else f"{split} {group}"
        say(f"{named}: {accuracy(part).value:.1f} % of {len(part)} images right")
    for doubt in doubts(
        prepared.name, backbone.identity, backbone.untrained, answers, prepared.classes
    ):
        say(doubt)
    say(f"-> {paths.predictions}")
