"""Stage mine-samples: the representative confusing image of every sample and pair."""

from __future__ import annotations

import polars as pl

from capt_core.artifacts.features import read_image_features
from capt_core.artifacts.schemas import CONFUSION_BANK, PAIRS, REPRESENTATIVES
from capt_core.artifacts.tables import read_table, write_table
from capt_core.backbone.identity import backbone_identity
from capt_core.confusion.sample_miner import error_share, mine_representatives
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
    pairs = read_table(PAIRS, paths.pairs, origin)
    bank = read_table(CONFUSION_BANK, paths.confusion_bank, origin)
    fewshot = load_fewshot(layout, prepared, settings.fewshot.shots, run.seed)
    found = mine_representatives(
        prepared,
        pairs,
        bank,
        fewshot.filter(pl.col("split") == "train"),
        read_image_features(layout.image_features, origin),
        settings.mine_samples,
        run.seed,
        whole_bank=settings.mine_pairs.selection == "any",
    )
    write_table(REPRESENTATIVES, found, paths.representatives, origin)
    say(f"{len(found)} representatives of {len(pairs)} pairs -> {paths.representatives}")
    for source, count in found.group_by("source").len().sort("source").iter_rows():
        say(f"  {source}: {count}")
    share = error_share(found, bank)
    if share is not None:
        say(f"  {share:.1%} of them are errors of the base model")
