"""Stage build-bank: the Confusion Bank and its statistics."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import torch

from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import CONFUSION_BANK, CONFUSION_STATISTICS, PREDICTIONS
from capt_core.artifacts.table_blocks import read_groups
from capt_core.artifacts.tables import write_table
from capt_core.backbone.encoding import encode_images
from capt_core.backbone.identity import backbone_identity
from capt_core.backbone.loading import load_backbone
from capt_core.confusion.bank import confusion_bank, confusion_statistics, training_predictions
from capt_core.confusion.imported import imported_bank, imported_identity, read_imported
from capt_core.data.augmentation import augmented_batches
from capt_core.data.dataset import Dataset, image_root, load_dataset, load_fewshot
from capt_core.evaluation.predictions import classified
from capt_core.methods.fitting import group_scorers
from capt_core.params import settings_hash

from .invocation import Run, reporter, say
from .models import base_model
from .stage import Stage

STAGE = Stage(
    per=("dataset", "seed"),
    params=("backbone", "build_bank", "data.root", "fewshot.shots", "runtime"),
    reads=lambda at: (
        *at.dataset,
        at.fewshot,
        at.data.images,
        at.seed.base_model,
        at.seed.predictions,
    ),
    writes=lambda at: (at.seed.confusion_bank, at.seed.confusion_statistics),
)

# What the bank and its statistics say of an image.
_COUNTED = (
    *("path", "split", "true_class_id", "true_class", "pseudo_label_id", "pseudo_label"),
    *("correct", "confidence", "true_confidence"),
)


def main(run: Run) -> None:
    settings, layout, paths = run.settings, run.layout, run.seed_layout
    prepared = load_dataset(layout)
    origin = prepared.provenance(
        backbone_identity(settings.backbone), settings_hash(settings.build_bank, run.seed)
    )
    imported = imported_identity(paths.predictions)
    if imported is not None:
        _bank_of_imported(run, prepared, replace(origin, backbone=imported, settings=""))
        return
    groups = read_groups(PREDICTIONS, paths.predictions, origin, _COUNTED)
    ids = prepared.samples["sample_id"]
    if settings.build_bank.source != "full_train":
        fewshot = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
        ids = fewshot.filter(pl.col("split") == "train")["sample_id"]
    images = pl.concat([training_predictions(prepared, part, ids) for part in groups])
    augmented = []
    if settings.build_bank.source == "augmented_views":
        views = _augmented(run, prepared, images["sample_id"], origin)
        augmented = [view.select(images.columns) for view in views]
    bank = confusion_bank(images, augmented)
    statistics = confusion_statistics(bank, images)
    write_table(CONFUSION_STATISTICS, statistics, paths.confusion_statistics, origin)
    write_table(CONFUSION_BANK, bank, paths.confusion_bank, origin)
    wrong = bank["sample_id"].n_unique()
    say(f"{wrong} of {len(images)} training images misclassified -> {paths.confusion_bank}")
    if wrong < len(prepared.class_ids("base")):
        say(
            "The bank is empty or nearly so: fewer images than classes. Widen it with "
            "build_bank.source=augmented_views or full_train."
        )
    _say_pairs(statistics)


def _bank_of_imported(run: Run, prepared: Dataset, origin: Provenance) -> None:
    paths = run.seed_layout
    predictions = read_imported(paths.predictions, prepared)
    bank, statistics, note = imported_bank(predictions)
    origin = replace(origin, note=note)
    write_table(CONFUSION_STATISTICS, statistics, paths.confusion_statistics, origin)
    write_table(CONFUSION_BANK, bank, paths.confusion_bank, origin)
    say(f"{len(bank)} images misclassified, by imported predictions -> {paths.confusion_bank}")
    if note:
        say(f"The bank is {note}.")
    _say_pairs(statistics)


def _say_pairs(statistics: pl.DataFrame) -> None:
    rows = statistics.select("true_class", "predicted_class", "count").head(5).iter_rows()
    for true, predicted, count in rows:
        say(f"  {true} taken for {predicted}: {count}")


def _augmented(
    run: Run, prepared: Dataset, ids: pl.Series, origin: Provenance
) -> list[pl.DataFrame]:
    """Predictions on random views of the given images, one table per view."""
    settings = run.settings
    backbone = load_backbone(settings.backbone, settings.runtime)
    model = base_model(run, backbone, origin)
    files = prepared.paths(ids, image_root(run.layout, settings.data.root))
    views, scorers = settings.build_bank.views, group_scorers(model.fitted, prepared)
    tables = []
    with reporter().progress("encoded", views * len(ids)) as advance:
        for view in range(1, views + 1):
            batches = augmented_batches(
                files,
                ids.to_list(),
                view,
                backbone.preprocess,
                run.seed,
                settings.build_bank.batch_size,
                settings.runtime.workers,
            )
            images = encode_images(batches, backbone, model.fitted.encode, advance)
            with torch.no_grad():
                features = model.fitted.adapt(images.to(backbone.device)).cpu()
            tables.append(classified(prepared, ids, features, scorers, top_classes=1))
    return tables
