"""Stage evaluate: predictions on test images, and the metrics of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

import polars as pl

from capt_core.advice import run_stage
from capt_core.artifacts.features import ImageFeatures
from capt_core.artifacts.files import write_json, write_text
from capt_core.artifacts.schemas import CONFUSION_BANK, EVALUATION, PREDICTIONS, RUN_PREDICTIONS
from capt_core.artifacts.table_blocks import read_columns, write_groups
from capt_core.artifacts.tables import write_table
from capt_core.backbone.loading import UNTRAINED_WARNING, load_backbone
from capt_core.data.dataset import load_dataset, load_fewshot
from capt_core.evaluation.metrics import evaluate_predictions, evaluation_rows
from capt_core.evaluation.predictions import classified, tempered
from capt_core.methods.fitting import group_scorers
from capt_core.methods.method import Need
from capt_core.methods.model_file import load_model

from . import options
from .invocation import Run, result, say
from .models import model_features
from .stage import Stage

STAGE = Stage(
    per=("dataset", "method", "seed"),
    params=(
        "backbone",
        "build_bank.source",
        "data.root",
        "evaluate.batch_size",
        "fewshot.shots",
        "runtime",
    ),
    reads=lambda at: (
        *at.dataset,
        at.fewshot,
        at.data.images,
        at.data.image_features,
        at.seed.base_model,
        at.seed.predictions,
        at.seed.confusion_bank,
        at.seed.representatives,
        at.run.model,
        at.run.training_log,
    ),
    reads_for=lambda at: {at.seed.representatives: {Need.CONFUSIONS}},
    writes=lambda at: (at.run.predictions, at.evaluation),
    metrics=lambda at: (at.run.metrics,),
    plots=lambda at: {
        at.run.confusion_plot: {
            "template": "confusion",
            "x": "predicted",
            "y": "actual",
            "title": "Test images by class",
        }
    },
)

_KEY = ("sample_id",)
_COUNTED = ("split", "group", "correct")


def main(run: Run, json: options.Json = False) -> None:
    settings, layout, paths = run.settings, run.layout, run.method_layout
    prepared = load_dataset(layout)
    backbone = load_backbone(settings.backbone, settings.runtime)
    origin = prepared.provenance(backbone.identity)
    remedy = run_stage("train", paths.model)
    model = load_model(paths.model, backbone, expected=origin, remedy=remedy)
    # The report shows what the model was fitted with.
    origin = replace(origin, settings=model.provenance.settings)
    mined = run.seed_layout
    before = read_columns(PREDICTIONS, mined.predictions, origin, *_COUNTED)
    bank = read_columns(CONFUSION_BANK, mined.confusion_bank, origin, *_KEY)
    # The bank's correction rate needs the images that could have entered the bank; which of
    # them did must not matter for the predictions.
    banked = pl.col("split") == "train"
    if settings.build_bank.source != "full_train":
        drawn = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
        banked &= pl.col("sample_id").is_in(drawn["sample_id"].implode())
    ids = prepared.samples.filter((pl.col("split") == "test") | banked)["sample_id"]
    temperature = None if model.calibration is None else model.calibration.temperature
    scorers = group_scorers(model.fitted, prepared)
    softened = {} if temperature is None else tempered(scorers, temperature)
    stored = ImageFeatures(layout.image_features, origin)
    counted = list[pl.DataFrame]()

    def blocks() -> Iterator[pl.DataFrame]:
        for part, features in model_features(run, model, prepared, ids, stored):
            table = classified(prepared, part, features, scorers, top_classes=5)
            calibrated = pl.lit(None, dtype=pl.Float64)
            if softened:
                soft = classified(prepared, part, features, softened, top_classes=1)
                calibrated = pl.lit(soft["confidence"])
            counted.append(table.select("true_class", "pseudo_label", *_KEY, *_COUNTED))
            yield table.with_columns(calibrated_confidence=calibrated)

    write_groups(RUN_PREDICTIONS, blocks(), paths.predictions, origin)
    after = pl.concat(counted)
    metrics = evaluate_predictions(before, after, bank, prepared.protocol)
    values = {name: metric.value for name, metric in metrics.items()}
    test = after.filter(split="test").select(
        pl.col("true_class").alias("actual"), pl.col("pseudo_label").alias("predicted")
    )
    write_text(paths.confusion_plot, test.write_csv())
    write_json(paths.metrics, {name: value and round(value, 4) for name, value in values.items()})
    rows = evaluation_rows(
        metrics,
        {
            "dataset": run.dataset,
            "method": run.method,
            "variant": run.variant or "default",
            "sees": model.sees,
            "protocol": prepared.protocol,
            "seed": run.seed,
        },
    )
    # The report shows more of a run than its metrics: the record names these tables.
    shown = {
        paths.predictions: "evaluate",
        paths.training_log: "train",
        run.seed_layout.base_model: "fit-teacher",
        run.seed_layout.predictions: "infer-teacher",
        run.seed_layout.confusion_bank: "build-bank",
    }
    if Need.CONFUSIONS in model.fitted.method.needs:
        shown[run.seed_layout.representatives] = "mine-samples"
    record = replace(origin, inputs=layout.digests(shown))
    write_table(EVALUATION, rows, layout.evaluation(run.entry, run.seed), record)
    lines = [
        f"{name}: {'none' if metric.value is None else f'{metric.value:.2f} %'} (n={metric.n})"
        for name, metric in metrics.items()
    ]
    result(
        {"dataset": run.dataset, "method": run.method, "seed": run.seed, "sees": model.sees}
        | {name: asdict(metric) for name, metric in metrics.items()},
        *lines,
        f"sees: {model.sees}",
    )
    if backbone.untrained:
        say(UNTRAINED_WARNING)
