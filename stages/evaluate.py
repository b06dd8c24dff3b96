"""Stage evaluate: predictions on test images, and the metrics of a run."""

from __future__ import annotations

import polars as pl

from capt_core.artifacts.features import (
    read_image_features,
    read_teacher_text_features,
    read_text_features,
)
from capt_core.artifacts.files import file_digest, write_json, write_text
from capt_core.artifacts.schemas import (
    CONFUSION_BANK,
    EVALUATION,
    PREDICTIONS,
    RUN_PREDICTIONS,
)
from capt_core.artifacts.tables import read_table, write_table
from capt_core.backbone.encoding import encode_images
from capt_core.backbone.loading import load_backbone
from capt_core.confusion.predictions import prediction_table
from capt_core.data.dataset import image_root, load_dataset, load_fewshot
from capt_core.data.images import image_batches, test_transform
from capt_core.evaluation.metrics import evaluate_predictions, evaluation_rows
from capt_core.methods.clip import class_logits
from capt_core.methods.encoders import check_method, image_encoder
from capt_core.methods.saved import read_tensors
from capt_core.methods.scoring import CLASS_TEXTS, FEATURE_METHODS, ClassTexts, feature_logits
from capt_core.methods.teacher import UNTRAINED_WARNING
from capt_core.params import settings_hash

from . import options
from .run import progress, say, stage_run
from .stage import Stage

STAGE = Stage(
    summary="predictions per image; base, novel, harmonic mean, corrected, broken",
    per=("dataset", "method", "seed"),
    params=(
        "backbone",
        "build_bank.source",
        "data.root",
        "evaluate.batch_size",
        "fewshot.shots",
        "methods.${item.method}",
        "runtime",
    ),
    reads=lambda at: (
        *at.dataset,
        at.fewshot,
        at.data.images,
        at.data.image_features,
        at.seed.base_model,
        at.seed.base_text_features,
        at.seed.predictions,
        at.seed.confusion_bank,
        at.seed.representatives,
        at.run.model,
        at.run.training_log,
    ),
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


def main(
    dataset: options.Dataset,
    method: options.Method = "capt",
    seed: options.Seed = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
    variant: options.Variant = None,
) -> None:
    """Score a method: base, novel, corrected, broken."""
    check_method(method)
    with stage_run("evaluate", dataset, seed, params, artifacts, set_, method, variant) as run:
        settings, layout = run.settings, run.layout
        prepared = load_dataset(layout)
        backbone = load_backbone(settings.backbone, settings.runtime)
        origin = prepared.provenance(backbone.identity, settings_hash(run.seed))
        paths = run.method_layout(method)
        saved, described = read_tensors(paths.model, "train", origin).without(CLASS_TEXTS)
        seen = saved.fact("sees", f"run: capt-stage train --dataset {dataset} --method {method}")
        before = read_table(PREDICTIONS, run.seed_layout.predictions, origin)
        bank = read_table(CONFUSION_BANK, run.seed_layout.confusion_bank, origin)
        # The bank's correction rate needs the images that could have entered the bank; which of
        # them did must not matter for the predictions.
        banked = pl.col("split") == "train"
        if settings.build_bank.source != "full_train":
            drawn = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
            banked &= pl.col("sample_id").is_in(drawn["sample_id"].implode())
        ids = prepared.samples.filter((pl.col("split") == "test") | banked)["sample_id"]
        if method in FEATURE_METHODS:
            stored = read_image_features(layout.image_features, origin)[ids.to_list()]
            texts = read_text_features(layout.text_features, origin)
            names = ClassTexts(prepared.spoken_names, texts if described is None else described)
            logits = feature_logits(saved, stored, names, backbone)
        else:
            batches = image_batches(
                prepared.paths(ids, image_root(layout, settings.data.root)),
                test_transform(backbone.style),
                settings.evaluate.batch_size,
                settings.runtime.workers,
            )
            with progress("encoded", len(ids)) as advance:
                images = encode_images(batches, backbone, image_encoder(saved, backbone), advance)
            texts = read_teacher_text_features(run.seed_layout.teacher_text_features, origin)
            compared = texts if described is None else described
            logits = class_logits(images, compared, backbone.logit_scale)
        after = prediction_table(prepared, ids, logits, top_classes=5)
        metrics = evaluate_predictions(before, after, bank)
        test = after.filter(split="test")
        write_table(RUN_PREDICTIONS, after, paths.predictions, origin)
        write_text(
            paths.confusion_plot,
            test.select(
                pl.col("true_class").alias("actual"), pl.col("pseudo_label").alias("predicted")
            ).write_csv(),
        )
        write_json(
            paths.metrics,
            {name: metric.value and round(metric.value, 4) for name, metric in metrics.items()},
        )
        rows = evaluation_rows(metrics, dataset, method, variant or "default", seen, run.seed)
        # The report reads more than the metrics: with the digests of what else it shows, this
        # record changes whenever the report must be written anew.
        shown = (
            paths.predictions,
            paths.training_log,
            run.seed_layout.predictions,
            run.seed_layout.confusion_bank,
            run.seed_layout.representatives,
        )
        record = prepared.provenance(
            backbone.identity,
            settings_hash(run.seed, *(file_digest(path) for path in shown if path.is_file())),
        )
        write_table(EVALUATION, rows, layout.evaluation(method, run.seed), record)
        for name, metric in metrics.items():
            value = "none" if metric.value is None else f"{metric.value:.2f} %"
            say(f"{name}: {value} (n={metric.n})")
        say(f"sees: {seen}")
        if backbone.untrained:
            say(UNTRAINED_WARNING)
