"""Folds of the embedded textures whose novel classes are base classes of the benchmark."""

from __future__ import annotations

import polars as pl

from capt_core.artifacts.layout import Layout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import CLASSES, FEWSHOT, SAMPLES
from capt_core.artifacts.tables import read_table, write_table
from capt_core.data.dataset import fingerprint
from capt_core.data.proctex.classes import CLASS_NAMES, GROUPS

SHOTS = 16
FOLDS = (
    ("stripes", "dots"),
    ("relief", "cracks"),
    ("stripes", "relief"),
    ("dots", "cracks"),
    ("stripes", "dots", "relief", "cracks"),  # all of them: as many classes as there will be
)
SEEDS = (1, 2)


def seeds_of(families: tuple[str, ...]) -> list[int]:
    """Few-shot draws of a fold: rates among few errors scatter more than accuracies."""
    return list(SEEDS if len(families) == len(FOLDS[-1]) else SEEDS[:1])


def prepare_fold(
    source: Layout, target: Layout, families: tuple[str, ...], seeds: list[int]
) -> None:
    """Write a data set whose base classes are some families of the real base half.

    Args:
        source: the textures as `prepare` drew them.
        target: where the fold's tables go; images are linked.
        families: taken for base classes; the other families of the half are taken for novel.
        seeds: few-shot draws to carry over.
    """
    chosen = [name for family in families for name in GROUPS[family]]
    others = [name for name in CLASS_NAMES[: len(CLASS_NAMES) // 2] if name not in chosen]
    names = pl.DataFrame(
        {
            "class_id": range(len(chosen) + len(others)),
            "class_name": chosen + others,
            "group": ["base"] * len(chosen) + ["novel"] * len(others),
        },
        schema_overrides={"class_id": pl.Int64},
    )
    classes = names.join(
        read_table(CLASSES, source.classes).drop("class_id", "group"),
        on="class_name",
        maintain_order="left",
    ).select(list(CLASSES.columns))
    old = read_table(SAMPLES, source.samples).rename({"sample_id": "old_id"}).drop("class_id")
    samples = (
        old.join(names.drop("group"), on="class_name")
        .sort("old_id")
        .with_row_index("sample_id")
        .with_columns(pl.col("sample_id").cast(pl.Int64))
    )
    table = samples.select(list(SAMPLES.columns))
    origin = Provenance(source.dataset, fingerprint(table, classes, ""))
    write_table(CLASSES, classes, target.classes, origin)
    write_table(SAMPLES, table, target.samples, origin)
    ids = samples.select(pl.col("old_id"), "sample_id", pl.col("class_id").alias("new_class"))
    for seed in seeds:
        drawn = read_table(FEWSHOT, source.fewshot(SHOTS, seed)).rename({"sample_id": "old_id"})
        kept = drawn.join(ids, on="old_id", maintain_order="left").with_columns(
            pl.col("new_class").alias("class_id")
        )
        write_table(
            FEWSHOT, kept.select(list(FEWSHOT.columns)), target.fewshot(SHOTS, seed), origin
        )
    target.images.symlink_to(source.images.resolve(), target_is_directory=True)
