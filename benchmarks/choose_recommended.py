"""How the preset `recommended` was chosen: no novel class and no test image is looked at.

    OMP_NUM_THREADS=1 python -m benchmarks.choose_recommended

Draws the embedded textures anew, twice (with other seeds than the benchmark's, so none of its
images occurs), and keeps the base classes only. Each of four folds takes some of their families
for base classes and the others for novel ones; the fifth takes all for base classes, in two
few-shot draws. Every setting is mined and trained by the real stages, once; the shares of what was
learnt that are added to the base model (`train.interpolation`) are tried on the trained model.
Printed for each candidate: change of base and of pseudo-novel accuracy against the frozen model,
their harmonic mean, and the errors corrected and right answers broken among base images. What is
chosen has the highest harmonic mean among those that keep a distance from what `recommended` is to
reach (`enough`).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import torch
from capt_core.methods.saved import read_tensors
from capt_core.methods.scoring import CLASS_TEXTS
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from benchmarks.pseudo_novel_folds import FOLDS, SHOTS, prepare_fold, seeds_of
from capt_core.artifacts.layout import Layout
from capt_core.artifacts.schemas import CONFUSION_BANK, PREDICTIONS
from capt_core.artifacts.tables import read_table
from capt_core.backbone.loading import load_backbone
from capt_core.data.dataset import image_root, load_dataset, load_fewshot
from capt_core.data.images import image_batches, test_transform
from capt_core.evaluation.metrics import Metric, evaluate_predictions
from capt_core.evaluation.predictions import prediction_table
from capt_core.methods.capt.model import CaptModel, model_from_state
from capt_core.methods.clip import class_logits
from capt_core.params import load_settings
from stages import (
    build_bank,
    cluster_prompts,
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
DATASET = "proctex"
DRAWINGS = (7, 8)

# Retention weight, names it is over, weight of the difference prompts in the class texts.
SETTINGS = (
    (4.0, "prompts", 0.5),
    (4.0, "prompts", 1.0),
    (4.0, "prompts", 2.0),
    (4.0, "prompts", 4.0),
    (4.0, "generic", 1.0),
    (8.0, "prompts", 1.0),
)
SHARES = (0.5, 0.7, 0.85, 1.0)


class FoldScores:
    """Scores trained models on a fold's test and few-shot images.

    The tower up to its last block is frozen, so that its tokens are computed once.
    """

    def __init__(self, layout: Layout, seed: int) -> None:
        settings = load_settings(PARAMS, DATASET)[0]
        self.dataset = load_dataset(layout)
        self.backbone = load_backbone(settings.backbone, settings.runtime)
        self.origin = self.dataset.provenance(self.backbone.identity, "")
        self.paths = layout.seed(seed)
        drawn = load_fewshot(layout, self.dataset, SHOTS, seed)["sample_id"].implode()
        wanted = (pl.col("split") == "test") | pl.col("sample_id").is_in(drawn)
        self.ids = self.dataset.samples.filter(wanted)["sample_id"]
        self.files = self.dataset.paths(self.ids, image_root(layout, None))
        self.before = read_table(PREDICTIONS, self.paths.predictions, self.origin)
        self.bank = read_table(CONFUSION_BANK, self.paths.confusion_bank, self.origin)
        self.tokens: list[torch.Tensor] = []

    @torch.no_grad()
    def of_shares(self) -> Iterator[tuple[float, dict[str, Metric]]]:
        """Metrics of the model trained last, at every share of what it has learnt."""
        path = self.paths.run("capt").model
        saved, texts = read_tensors(path, "train", self.origin).without(CLASS_TEXTS)
        assert texts is not None
        tower = self.backbone.clip.visual
        trained = model_from_state(tower, saved.tensors, saved.facts["shape"]).eval()
        for share in SHARES:
            model = copy.deepcopy(trained)
            model.interpolate(share)
            logits = class_logits(self._features(model), texts, self.backbone.logit_scale)
            after = prediction_table(self.dataset, self.ids, logits, top_classes=1)
            yield share, evaluate_predictions(self.before, after, self.bank)

    def frozen(self) -> dict[str, Metric]:
        """Metrics of the base model itself."""
        return evaluate_predictions(self.before, self.before, self.bank)

    def _features(self, model: CaptModel) -> torch.Tensor:
        if not self.tokens:
            transform = test_transform(self.backbone.preprocess)
            self.tokens = [
                model.frozen_prefix(images)
                for images in image_batches(self.files, transform, 128, 2)
            ]
        found = []
        for tokens in self.tokens:
            alpha = model.running_alpha.expand(len(tokens))
            found.append(model.features(tokens, alpha, class_token_only=True)[0])
        return functional.normalize(torch.cat(found), dim=-1)


def run_candidates(layout: Layout, seeds: list[int]) -> pl.DataFrame:
    """Run every candidate on one fold.

    Returns:
        Columns candidate, seed, metric, value; the candidate `frozen` is the base model.
    """
    extract_features.main(DATASET, None, PARAMS, layout.root)
    rows: list[tuple[str, int, str, float | None]] = []

    def add(candidate: str, seed: int, metrics: dict[str, Metric]) -> None:
        rows.extend((candidate, seed, name, metric.value) for name, metric in metrics.items())

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
            stage.main(DATASET, seed, PARAMS, layout.root)
        scores = FoldScores(layout, seed)
        add("frozen", seed, scores.frozen())
        for weight, names, difference in SETTINGS:
            overrides = [
                f"losses.retention_weight={weight}",
                f"losses.retention_names={names}",
                f"class_texts.difference_weight={difference}",
                "train.interpolation=1.0",
            ]
            train.main(DATASET, "capt", seed, PARAMS, layout.root, overrides)
            for share, metrics in scores.of_shares():
                title = (
                    f"retention {weight:g} over {names}, difference {difference:g}, kept {share:g}"
                )
                add(title, seed, metrics)
    return pl.DataFrame(rows, schema=["candidate", "seed", "metric", "value"], orient="row")


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
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        parts = []
        for drawing in options.drawings:
            source = Layout(work / f"drawing{drawing}", DATASET)
            drawn = [f"prepare.proctex_seed={drawing}"]
            with contextlib.redirect_stdout(io.StringIO()):
                prepare.main(DATASET, None, PARAMS, source.root, drawn)
            for number, families in enumerate(FOLDS, start=1):
                target = Layout(source.root / f"fold{number}", DATASET)
                seeds = seeds_of(families)
                prepare_fold(source, target, families, seeds)
                with contextlib.redirect_stdout(io.StringIO()):
                    results = run_candidates(target, seeds)
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
