"""Stage mine-pairs: semantic confusion pairs per sample and per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from capt_core.artifacts.features import ImageFeatures, read_base_text_features
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import (
    CLASS_PAIRS,
    CONFUSION_BANK,
    CONFUSION_STATISTICS,
    PAIRS,
)
from capt_core.artifacts.table_blocks import TableWriter, table_writer
from capt_core.artifacts.tables import read_table, write_table
from capt_core.backbone.identity import backbone_identity
from capt_core.backbone.loading import load_backbone
from capt_core.confusion.likely import (
    ConfidenceSums,
    LikelyClasses,
    MeanConfidences,
    read_likely_classes,
    read_mean_confidences,
)
from capt_core.confusion.sample_miner import WholeBank
from capt_core.confusion.semantic_miner import PairMiner, labels_of_draw, miner_of_draw
from capt_core.data.dataset import Dataset, load_dataset, load_fewshot
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
        at.seed.likely_classes,
        at.seed.mean_confidences,
        at.seed.confusion_bank,
        at.seed.confusion_statistics,
    ),
    writes=lambda at: (at.seed.pairs, at.seed.class_pairs),
)


def main(run: Run) -> None:
    settings, layout, paths = run.settings, run.layout, run.seed_layout
    prepared, chosen = load_dataset(layout), settings.mine_pairs
    origin = prepared.provenance(
        backbone_identity(settings.backbone), settings_hash(chosen, run.seed)
    )
    statistics = read_table(CONFUSION_STATISTICS, paths.confusion_statistics, origin)
    fewshot = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
    base = prepared.class_ids("base")
    ids = fewshot.filter(pl.col("split") == "train", pl.col("class_id").is_in(base))["sample_id"]
    texts = read_base_text_features(paths.base_text_features, origin)
    miner = miner_of_draw(prepared, statistics, chosen)
    inferred = chosen.selection == "confusion" and chosen.pseudo_label == "pseudo_gt"
    with table_writer(PAIRS, paths.pairs, origin) as write:
        if inferred:
            means = _mine_inferred(run, origin, ids, base, miner, write)
        else:
            means = _mine_scored(run, prepared, origin, ids, texts, miner, write)
    write_table(CLASS_PAIRS, miner.class_pairs(means, texts[base]), paths.class_pairs, origin)
    say(f"{write.rows} pairs of {len(ids)} images -> {paths.pairs}")


def _mine_inferred(
    run: Run,
    origin: Provenance,
    ids: pl.Series,
    class_ids: Sequence[int],
    miner: PairMiner,
    write: TableWriter,
) -> MeanConfidences:
    """Mine by what infer-teacher kept of the base model's confidences."""
    paths, taken = run.seed_layout, np.zeros(len(class_ids), dtype=np.int64)
    for part, likely in read_likely_classes(paths.likely_classes, origin, ids, class_ids):
        labels = likely.most_likely()
        taken += np.bincount(labels.numpy(), minlength=len(taken))
        write(miner.pairs(part, labels, likely))
    return read_mean_confidences(paths.mean_confidences, origin, class_ids, taken)


def _mine_scored(
    run: Run,
    prepared: Dataset,
    origin: Provenance,
    ids: pl.Series,
    texts: torch.Tensor,
    miner: PairMiner,
    write: TableWriter,
) -> MeanConfidences:
    """Mine for other labels or pairs than those of eq. 6 and 7."""
    settings, layout, base = run.settings, run.layout, prepared.class_ids("base")
    backbone = load_backbone(settings.backbone, settings.runtime)
    model = base_model(run, backbone, origin)
    stored = ImageFeatures(layout.image_features, origin)
    scorer = group_scorers(model.fitted, prepared, texts)["base"]
    bank, sums = None, ConfidenceSums(len(base))
    if settings.mine_pairs.selection == "any":
        table = read_table(CONFUSION_BANK, run.seed_layout.confusion_bank, origin)
        bank = WholeBank(table, stored, base)
    for part, features in model_features(run, model, prepared, ids, stored):
        confidences = probabilities(scorer, features)
        labels = labels_of_draw(prepared, part, confidences, settings.mine_pairs)
        sums.add(labels, confidences)
        similarities = None if bank is None else bank.similarities(part)
        write(miner.pairs(part, labels, LikelyClasses.every(confidences), similarities))
    return sums.means()
