"""Stage mine-pairs: semantic confusion pairs per sample and per class."""

from __future__ import annotations

import polars as pl

from capt_core.artifacts.features import read_base_text_features, read_image_features
from capt_core.artifacts.schemas import (
    CLASS_PAIRS,
    CONFUSION_BANK,
    CONFUSION_STATISTICS,
    PAIRS,
)
from capt_core.artifacts.tables import read_table, write_table
from capt_core.backbone.loading import load_backbone
from capt_core.confusion.sample_miner import whole_bank_similarities
from capt_core.confusion.semantic_miner import pairs_of_draw
from capt_core.data.dataset import load_dataset, load_fewshot
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
    drawn = fewshot.filter(pl.col("split") == "train", pl.col("class_id").is_in(base))
    ids = drawn["sample_id"]
    texts = read_base_text_features(paths.base_text_features, origin)[base]
    images = read_image_features(layout.image_features, origin)
    logits = model.fitted.logits(model_features(run, model, prepared, ids, images), model.classes)
    confidences = logits[:, base].softmax(dim=-1).double()
    similarities = None
    if settings.mine_pairs.selection == "any":
        bank = read_table(CONFUSION_BANK, paths.confusion_bank, origin)
        similarities = whole_bank_similarities(ids.to_list(), bank, images, base)
    mined = pairs_of_draw(
        prepared, drawn, confidences, texts, statistics, settings.mine_pairs, similarities
    )
    write_table(CLASS_PAIRS, mined.class_pairs, paths.class_pairs, origin)
    write_table(PAIRS, mined.pairs, paths.pairs, origin)
    say(f"{len(mined.pairs)} pairs of {len(ids)} images -> {paths.pairs}")
