"""How the preset `recommended` was chosen: no novel class and no test image is looked at.

    OMP_NUM_THREADS=1 python -m benchmarks.choose_recommended

Draws the embedded textures anew, twice (with other seeds than the benchmark's, so none of its
images occurs), and keeps the base classes only. Each of four folds takes some of their families
for base classes and the others for novel ones; the fifth takes all for base classes, in two
few-shot draws. Every setting is trained once; the shares of what was learnt that are added to the
base model (`methods.capt.train.interpolation`) are tried on the trained model. Printed for each
candidate: change of base and of pseudo-novel accuracy against the frozen model, their harmonic
mean, and the errors corrected and right answers broken among base images. What is chosen has the
highest harmonic mean among those that keep a distance from what `recommended` is to reach
(`enough`).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import torch
from torch.nn import functional

import capt_core
from benchmarks.pseudo_novel_folds import DRAWINGS, FOLDS, SHOTS, drawn_textures, fold_of
from capt_core.data.images import image_batches
from capt_core.data.protocol import BASE_TO_NOVEL
from capt_core.evaluation.metrics import Metric, evaluate_predictions
from capt_core.evaluation.predictions import prediction_table
from capt_core.methods.capt.method import FittedCapt
from capt_core.methods.capt.model import CaptModel

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


@torch.no_grad()
def features_of(model: CaptModel, prefix: list[torch.Tensor]) -> torch.Tensor:
    """Unit-length features [N, d] from batches of `frozen_prefix`."""
    found = [
        model.features(tokens, model.running_alpha.expand(len(tokens)), class_token_only=True)[0]
        for tokens in prefix
    ]
    return functional.normalize(torch.cat(found), dim=-1)


def candidates(
    fold: capt_core.Dataset, backbone: capt_core.Backbone, seed: int, settings: int | None
) -> Iterator[tuple[str, dict[str, Metric]]]:
    """Metrics of the frozen model and of every candidate on one few-shot draw of a fold."""
    base = capt_core.fit("clip", fold, backbone)
    errors = capt_core.build_bank(base, fold, shots=SHOTS, seed=seed)
    ids = pl.concat([fold.samples.filter(split="test"), errors.images], how="diagonal")["sample_id"]
    prefix: list[torch.Tensor] = []
    for weight, names, difference in SETTINGS[:settings]:
        changes = {
            "losses": {"retention_weight": weight, "retention_names": names},
            "class_texts": {"difference_weight": difference},
            "train": {"interpolation": 1.0},
        }
        fitted = capt_core.fit(
            "capt", fold, backbone, shots=SHOTS, seed=seed, base_model=base, settings=changes
        ).fitted
        assert isinstance(fitted, FittedCapt)
        if not prefix:  # the same for all: the tower is frozen up to its last block
            with torch.no_grad():
                images = image_batches(fold.paths(ids), backbone.preprocess, 128, 2)
                prefix = [fitted.model.frozen_prefix(batch) for batch in images]
                frozen = torch.cat([fitted.model.base_features(tokens) for tokens in prefix])
            logits = base.fitted.logits(functional.normalize(frozen, dim=-1), base.classes)
            before = prediction_table(fold, ids, logits, top_classes=1)
            yield "frozen", evaluate_predictions(before, before, errors.bank, BASE_TO_NOVEL)
        score = fitted.scorer(base.classes)
        for share in SHARES:
            model = copy.deepcopy(fitted.model)
            model.interpolate(share)
            logits = score(features_of(model, prefix))
            after = prediction_table(fold, ids, logits, top_classes=1)
            title = f"retention {weight:g} over {names}, difference {difference:g}, kept {share:g}"
            yield title, evaluate_predictions(before, after, errors.bank, BASE_TO_NOVEL)


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
    parser.add_argument("--settings", type=int, help="only the first so many settings")
    parser.add_argument("--work", type=Path, help="folder for images; a temporary one if absent")
    options = parser.parse_args()
    backbone = capt_core.load_backbone()
    columns = ("fold", "candidate", "seed", "metric", "value")
    rows: list[tuple[str, str, int, str, float | None]] = []
    for drawing in options.drawings:
        with drawn_textures(drawing, options.work) as textures:
            for number, families in enumerate(FOLDS, start=1):
                fold, name = fold_of(textures, families), f"{drawing}-{number}"
                # Rates among few errors scatter more than accuracies: two draws of the last fold.
                for seed in (1, 2) if families == FOLDS[-1] else (1,):
                    for candidate, metrics in candidates(fold, backbone, seed, options.settings):
                        rows += [(name, candidate, seed, k, m.value) for k, m in metrics.items()]
                print(f"fold {name}: done", flush=True)
    summary = summarise(pl.DataFrame(rows, schema=columns, orient="row"))
    with pl.Config(tbl_rows=-1, tbl_width_chars=200, fmt_str_lengths=80, float_precision=2):
        print(summary)
    good = summary.filter(enough())
    print(f"chosen: {good['candidate'][0]}" if len(good) else "none is enough")


if __name__ == "__main__":
    main()
