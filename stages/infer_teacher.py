"""Stage infer-teacher: what the base model takes every image for."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from capt_core.artifacts.features import ImageFeatures
from capt_core.artifacts.schemas import PREDICTIONS
from capt_core.artifacts.table_blocks import write_groups
from capt_core.backbone.loading import load_backbone
from capt_core.confusion.imported import imported_identity
from capt_core.data.dataset import load_dataset
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
    params=("backbone", "data.root", "evaluate.batch_size", "infer_teacher", "runtime"),
    reads=lambda at: (
        *at.dataset,
        at.data.images,
        at.data.image_features,
        at.seed.base_model,
    ),
    writes=lambda at: (at.seed.predictions,),
)


def main(run: Run) -> None:
    settings, layout, paths = run.settings, run.layout, run.seed_layout
    prepared = load_dataset(layout)
    backbone = load_backbone(settings.backbone, settings.runtime)
    origin = prepared.provenance(backbone.identity, settings_hash(settings.infer_teacher, run.seed))
    model = base_model(run, backbone, origin)
    scorers = group_scorers(model.fitted, prepared)
    stored = ImageFeatures(layout.image_features, origin)
    counted = list[pl.DataFrame]()

    def blocks() -> Iterator[pl.DataFrame]:
        ids = prepared.samples["sample_id"]
        for part, features in model_features(run, model, prepared, ids, stored):
            table = classified(
                prepared, part, features, scorers, settings.infer_teacher.top_classes
            )
            counted.append(table.select("split", "group", "correct"))
            yield table

    if imported := imported_identity(paths.predictions):
        warn(
            f"{paths.predictions}: replaces imported predictions ({imported}); "
            "import them again, or into a --run NAME of their own, to have both"
        )
    write_groups(PREDICTIONS, blocks(), paths.predictions, origin)
    answers = pl.concat(counted)
    for (split, group), part in answers.group_by("split", "group", maintain_order=True):
        named = split if prepared.protocol == ALL_CLASSES else f"{split} {group}"
        say(f"{named}: {accuracy(part).value:.1f} % of {len(part)} images right")
    for doubt in doubts(
        prepared.name, backbone.identity, backbone.untrained, answers, prepared.classes
    ):
        say(doubt)
    say(f"-> {paths.predictions}")
