"""Stage mine-pairs: semantic confusion pairs per sample and per class."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from capt_core.artifacts.features import ImageFeatures, read_base_text_features
from capt_core.artifacts.schemas import (
    CLASS_PAIRS,
    CONFUSION_BANK,
    CONFUSION_STATISTICS,
    PAIRS,
)
from capt_core.artifacts.table_blocks import write_groups
from capt_core.artifacts.tables import read_table, write_table
from capt_core.backbone.loading import load_backbone
from capt_core.confusion.sample_miner import WholeBank
from capt_core.confusion.semantic_miner import labels_of_draw, miner_of_draw
from capt_core.data.dataset import load_dataset, load_fewshot
from capt_core.evaluation.predictions import probabilities
from capt_core.methods.fitting import group_scorers
from capt_core.params import settings_hash

from .invocation import Run, say
from .models import base_model, model_features
from .stage import Stage

STAGE = Stage(
    per=("dataset", "seed"),
    params=(
        "backbone",
        "data.root",
        "evaluate.batch_size",
        "fewshot.shots",
        "mine_pairs",
        "runtime",
    ),
    reads=lambda at: (
        *at.dataset,
        at.fewshot,
        at.data.images,
        at.data.image_features,
        at.seed.base_model,
        at.seed.base_text_features,
        at.seed.confusion_bank,
        at.seed.confusion_statistics,
    ),
    writes=lambda at: (at.seed.pairs, at.seed.class_pairs),
)


def main(run: Run) -> None:
    settings, layout = run.settings, run.layout
    prepared = load_dataset(layout)
    backbone = load_backbone(settings.backbone, settings.runtime)
    origin = prepared.provenance(backbone.identity, settings_hash(settings.mine_pairs, run.seed))
    paths = run.seed_layout
    model = base_model(run, backbone, origin)
    statistics = read_table(CONFUSION_STATISTICS, paths.confusion_statistics, origin)
    fewshot = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
    base = prepared.class_ids("base")
    ids = fewshot.filter(pl.col("split") == "train", pl.col("class_id").is_in(base))["sample_id"]
    texts = read_base_text_features(paths.base_text_features, origin)
    stored = ImageFeatures(layout.image_features, origin)
    scorer = group_scorers(model.fitted, prepared, texts)["base"]
    miner, chosen = miner_of_draw(prepared, statistics, settings.mine_pairs), settings.mine_pairs
    bank = None
    if chosen.selection == "any":
        table = read_table(CONFUSION_BANK, paths.confusion_bank, origin)
        bank = WholeBank(table, stored, base)

    def blocks() -> Iterator[pl.DataFrame]:
        for part, features in model_features(run, model, prepared, ids, stored):
            yield miner.pairs(
                part,
                probabilities(scorer, features),
                labels_of_draw(prepared, part, chosen),
                None if bank is None else bank.similarities(part),
            )

    count = write_groups(PAIRS, blocks(), paths.pairs, origin)
    write_table(CLASS_PAIRS, miner.class_pairs(texts[base]), paths.class_pairs, origin)
    say(f"{count} pairs of {len(ids)} images -> {paths.pairs}")
