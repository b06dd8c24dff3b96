"""How the preset `recommended` was chosen: no novel class and no test image is looked at.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.choose_recommended

Draws the embedded textures anew, twice (with other seeds than the benchmark's, so none of its
images occurs), and keeps the base classes only. Each of four folds takes some of their families
for base classes and the others for novel ones; the fifth takes all for base classes, in two
few-shot draws. Every candidate setting runs through the real stages. Printed for each candidate:
change of base and of pseudo-novel accuracy against the frozen model, their harmonic mean, and the
errors corrected and right answers broken among base images. What is chosen has the highest
harmonic mean among those that keep a distance from what `recommended` is to reach (`enough`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from capt_core.artifacts.layout import Layout, evaluations
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import CLASSES, FEWSHOT, SAMPLES
from capt_core.artifacts.tables import read_table, write_table
from capt_core.data.dataset import fingerprint
from capt_core.data.proctex.classes import CLASS_NAMES, GROUPS
from stages import (
    build_bank,
    cluster_prompts,
    evaluate,
    extract_features,
    fit_teacher,
    generate_prompts,
    infer_teacher,
    mine_pairs,
    mine_samples,
    prepare,
    train,
)

PARAMS = Path("params.yaml")
DRAWINGS = (7, 8)
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


# Retention weight, names it is over, weight of the difference prompts in the class texts,
# interpolation.
CANDIDATES = {
    f"retention {retention:g} over {names}, difference {difference:g}, "
    f"interpolation {interpolation:g}": (
        f"losses.retention_weight={retention}",
        f"losses.retention_names={names}",
        f"class_texts.difference_weight={difference}",
        f"train.interpolation={interpolation}",
    )
    for retention, names, difference, interpolation in (
        (4.0, "prompts", 0.0, 0.85),
        (4.0, "prompts", 1.0, 0.7),
        (4.0, "prompts", 1.0, 0.85),
        (4.0, "prompts", 1.0, 1.0),
        (4.0, "prompts", 2.0, 0.85),
        (4.0, "prompts", 4.0, 0.7),
        (4.0, "generic", 1.0, 0.85),
        (8.0, "prompts", 1.0, 1.0),
    )
}


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


def run_candidates(artifacts: Path, seeds: list[int]) -> pl.DataFrame:
    """Run every candidate on one fold; rows as in the table `results`, by candidate."""
    dataset = "proctex"
    extract_features.main(dataset, None, PARAMS, artifacts)
    rows = []
    for seed in seeds:
        for stage in (
            fit_teacher,
            infer_teacher,
            build_bank,
            mine_pairs,
            generate_prompts,
            cluster_prompts,
            mine_samples,
        ):
            stage.main(dataset, seed, PARAMS, artifacts)
        for candidate, overrides in {"frozen": (), **CANDIDATES}.items():
            method = "clip" if candidate == "frozen" else "capt"
            train.main(dataset, method, seed, PARAMS, artifacts, list(overrides))
            evaluate.main(dataset, method, seed, PARAMS, artifacts, list(overrides))
            record = evaluations(artifacts) / dataset / f"{method}-seed{seed}.parquet"
            rows.append(pl.read_parquet(record).with_columns(candidate=pl.lit(candidate)))
    return pl.concat(rows)


def summarise(results: pl.DataFrame) -> pl.DataFrame:
    """One row per candidate, best harmonic mean first.

    Changes of accuracy are means over the folds with pseudo-novel classes; what is corrected and
    broken is that of the fold with all classes, because both depend on how many there are.
    """
    wide = results.pivot("metric", index=["candidate", "fold", "seed"], values="value")
    frozen = wide.filter(candidate="frozen").select(
        "fold", "seed", base="base_accuracy", novel="novel_accuracy"
    )
    parts = pl.col("novel").is_not_null()
    return (
        wide.filter(pl.col("candidate") != "frozen")
        .join(frozen, on=["fold", "seed"])
        .group_by("candidate")
        .agg(
            (pl.col("base_accuracy") - pl.col("base")).filter(parts).mean().alias("base change"),
            (pl.col("novel_accuracy") - pl.col("novel"))
            .filter(parts)
            .mean()
            .alias("pseudo-novel change"),
            pl.col("harmonic_mean").filter(parts).mean().alias("harmonic mean"),
            *(
                pl.col(metric).filter(~parts).mean().alias(name)
                for metric, name in (
                    ("base_correction_rate", "base errors corrected"),
                    ("base_broken_rate", "base right broken"),
                    ("bank_correction_rate", "bank corrected"),
                )
            ),
        )
        .sort("harmonic mean", descending=True)
    )


def enough() -> pl.Expr:
    """Which may be chosen: with margins, because a choice looks better where it is made."""
    return (
        (pl.col("base change") >= 11)
        & (pl.col("pseudo-novel change") >= 0)
        & (pl.col("bank corrected") >= 84)
        & (pl.col("base errors corrected") >= 47)
        & (pl.col("base right broken") <= 4.6)
    )


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Choose the preset `recommended`.")
    parser.add_argument("--drawings", type=int, nargs="+", default=list(DRAWINGS))
    parser.add_argument("--work", type=Path, help="folder for the runs; a temporary one if absent")
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        parts = []
        for drawing in options.drawings:
            source = Layout(work / f"drawing{drawing}", "proctex")
            drawn = [f"prepare.proctex_seed={drawing}"]
            with contextlib.redirect_stdout(io.StringIO()):
                prepare.main("proctex", None, PARAMS, source.root, drawn)
            for number, families in enumerate(FOLDS, start=1):
                target = Layout(source.root / f"fold{number}", "proctex")
                seeds = seeds_of(families)
                prepare_fold(source, target, families, seeds)
                with contextlib.redirect_stdout(io.StringIO()):
                    results = run_candidates(target.root, seeds)
                fold = f"{drawing}-{number}"
                parts.append(results.with_columns(fold=pl.lit(fold)))
                print(f"fold {fold}: done", flush=True)
        summary = summarise(pl.concat(parts))
        table = Table(*summary.columns)
        for row in summary.iter_rows():
            table.add_row(*(cell if isinstance(cell, str) else f"{cell:.2f}" for cell in row))
        Console(width=170).print(table)
        good = summary.filter(enough())
        print(f"chosen: {good['candidate'][0]}" if len(good) else "none is enough")


if __name__ == "__main__":
    main()
