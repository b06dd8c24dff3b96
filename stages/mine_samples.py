"""Stage mine-samples: the representative confusing image of every sample and pair."""

from __future__ import annotations

import polars as pl

from capt_core.artifacts.features import ImageFeatures
from capt_core.artifacts.schemas import CONFUSION_BANK, PAIRS, REPRESENTATIVES
from capt_core.artifacts.table_blocks import read_columns, write_groups
from capt_core.backbone.identity import backbone_identity
from capt_core.confusion.sample_miner import mine_representatives
from capt_core.data.dataset import load_dataset, load_fewshot
from capt_core.params import settings_hash

from .invocation import Run, say
from .stage import Stage

STAGE = Stage(
    per=("dataset", "seed"),
    params=("backbone", "fewshot.shots", "mine_pairs.selection", "mine_samples"),
    reads=lambda at: (
        *at.dataset,
        at.fewshot,
        at.data.image_features,
        at.seed.pairs,
        at.seed.confusion_bank,
    ),
    writes=lambda at: (at.seed.representatives,),
)


def main(run: Run) -> None:
    settings, layout = run.settings, run.layout
    prepared = load_dataset(layout)
    origin = prepared.provenance(
        backbone_identity(settings.backbone), settings_hash(settings.mine_samples, run.seed)
    )
    paths = run.seed_layout
    pairs = read_columns(PAIRS, paths.pairs, origin, "pseudo_label_id", "class_id")
    bank = read_columns(CONFUSION_BANK, paths.confusion_bank, origin, "true_class_id")
    fewshot = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
    found = mine_representatives(
        prepared,
        pairs,
        bank,
        fewshot.filter(pl.col("split") == "train"),
        ImageFeatures(layout.image_features, origin),
        settings.mine_samples,
        run.seed,
        whole_bank=settings.mine_pairs.selection == "any",
    )
    write_groups(REPRESENTATIVES, found.blocks(), paths.representatives, origin)
    say(f"{len(found)} representatives of {len(pairs)} pairs -> {paths.representatives}")
    for source, count in found.counts():
        say(f"  {source}: {count}")
    share = found.error_share(bank)
    if share is not None:
        say(f"  {share:.1%} of them are errors of the base model")
