"""What became of every image, class and confused pair between two models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from capt_core.artifacts.report_tables import CLASS_RESULTS, PAIR_RESULTS, RUN_CHANGES, SUMMARY
from capt_core.evaluation.intervals import (
    PairedDifference,
    mcnemar,
    paired_difference,
    wilson_interval,
)

ERRORS = ("error", "repaired", "same_error", "another_error", "newly_wrong")
"""Outcomes of images that at least one model takes for another class."""

_SHOWN_CLASSES = 2


def counted_images(predictions: pl.DataFrame) -> pl.DataFrame:
    """The images whose errors are counted: test images, or all where none is set apart.

    Args:
        predictions: any rows with `split`.
    """
    test = predictions.filter(pl.col("split") == "test")
    return predictions if test.is_empty() else test


def image_outcomes(
    before: pl.DataFrame, after: pl.DataFrame | None, seed: int | None = None
) -> pl.DataFrame:
    """What became of each image that both models classified.

    Args:
        before: table `predictions` of the base model, of the images to be counted.
        after: table `run_predictions` of the repaired model; None without one.
        seed: of the few-shot draw, for the column `seed`.

    Returns:
        One row per image, in the order of `before`: `seed`, `sample_id`, `path`, `group`,
        `true_class(_id)`, `base_prediction(_id)`, `base_confidence`, `prediction(_id)`,
        `confidence`, `outcome`: one of `ERRORS` or `right`; without a repaired model `error` or
        `right`, and nulls in its columns.
    """
    rows = before.select(
        pl.lit(seed, pl.Int64).alias("seed"),
        *("sample_id", "path", "group", "true_class_id", "true_class"),
        pl.col("pseudo_label_id").alias("base_prediction_id"),
        pl.col("pseudo_label").alias("base_prediction"),
        pl.col("confidence").alias("base_confidence"),
    )
    was_right = pl.col("base_prediction_id") == pl.col("true_class_id")
    if after is None:
        return rows.with_columns(
            pl.lit(None, pl.Int64).alias("prediction_id"),
            pl.lit(None, pl.String).alias("prediction"),
            pl.lit(None, pl.Float64).alias("confidence"),
            pl.when(was_right).then(pl.lit("right")).otherwise(pl.lit("error")).alias("outcome"),
        )
    answers = after.select(
        "sample_id",
        pl.col("pseudo_label_id").alias("prediction_id"),
        pl.col("pseudo_label").alias("prediction"),
        "confidence",
    )
    is_right = pl.col("prediction_id") == pl.col("true_class_id")
    same = pl.col("prediction_id") == pl.col("base_prediction_id")
    return rows.join(answers, on="sample_id", how="inner", maintain_order="left").with_columns(
        pl.when(was_right & is_right)
        .then(pl.lit("right"))
        .when(was_right)
        .then(pl.lit("newly_wrong"))
        .when(is_right)
        .then(pl.lit("repaired"))
        .when(same)
        .then(pl.lit("same_error"))
        .otherwise(pl.lit("another_error"))
        .alias("outcome")
    )


def summary_rows(outcomes: pl.DataFrame, classes: pl.DataFrame, repaired: bool) -> pl.DataFrame:
    """Errors before and after, by half of the classes and seed.

    Args:
        outcomes: from `image_outcomes`, of all seeds.
        classes: table `classes`.
        repaired: whether there is a repaired model.

    Returns:
        Rows as in the table `summary`, halves in the order of `classes`. A half without images
        has none.
    """
    groups = dict(classes.group_by("group", maintain_order=True).len().iter_rows())
    counts = outcomes.group_by("group", "seed", "outcome").len()
    found: dict[tuple[str, int], dict[str, int]] = {}
    for group, seed, outcome, number in counts.iter_rows():
        found.setdefault((group, seed), {})[outcome] = number
    rows = []
    order = list(groups)
    for group, seed in sorted(found, key=lambda key: (order.index(key[0]), key[1])):
        of = dict.fromkeys((*ERRORS, "right"), 0) | found[group, seed]
        stayed = of["same_error"] + of["another_error"]
        row: dict[str, object] = {
            "group": group,
            "seed": seed,
            "classes": groups[group],
            "images": sum(of.values()),
            "errors_before": of["error"] + of["repaired"] + stayed,
        }
        if repaired:
            names = ("repaired", "same_error", "another_error", "newly_wrong")
            row |= {name: of[name] for name in names}
            row["errors_after"] = stayed + of["newly_wrong"]
            row["p_value"] = mcnemar(of["repaired"], of["newly_wrong"])
        rows.append(row)
    return SUMMARY.frame(rows)


def differences(outcomes: pl.DataFrame) -> dict[str, PairedDifference]:
    """Accuracy of the repaired model less that of the base model, by half of the classes.

    Args:
        outcomes: from `image_outcomes` with a repaired model, of all seeds.
    """
    change = (pl.col("outcome") == "repaired").cast(pl.Int64) - (
        pl.col("outcome") == "newly_wrong"
    ).cast(pl.Int64)
    found = {}
    for (group,), part in outcomes.group_by("group", maintain_order=True):
        sums = part.group_by("sample_id", maintain_order=True).agg(change.sum().alias("change"))
        found[str(group)] = paired_difference(sums["change"].to_numpy(), part["seed"].n_unique())
    return found


def pair_results(outcomes: pl.DataFrame, repaired: bool) -> pl.DataFrame:
    """Where the images of every confused pair went.

    Args:
        outcomes: from `image_outcomes`, of all seeds.
        repaired: whether there is a repaired model.

    Returns:
        Rows as in the table `pair_results`: the most frequent before first, then the most frequent
        after, then by class. Pairs that neither model confuses have none.
    """
    seeds = max(1, outcomes["seed"].n_unique())
    true = ["group", "true_class_id", "true_class"]
    images = outcomes.group_by("true_class_id").agg(pl.col("sample_id").n_unique().alias("images"))
    was = pl.col("base_prediction_id") != pl.col("true_class_id")
    keys = [*true, "taken_class_id", "taken_class"]
    cells = outcomes.filter(was).rename(
        {"base_prediction_id": "taken_class_id", "base_prediction": "taken_class"}
    )
    before = cells.group_by(keys).agg(
        pl.len().alias("before"),
        *_counts("repaired", "same_error", "another_error"),
    )
    arrived = outcomes.filter(pl.col("outcome").is_in(["newly_wrong", "another_error"])).select(
        *true,
        pl.col("prediction_id").alias("taken_class_id"),
        pl.col("prediction").alias("taken_class"),
        "outcome",
    )
    came = arrived.group_by(keys).agg(
        _counts("newly_wrong")[0],
        (pl.col("outcome") == "another_error").sum().alias("moved_here"),
    )
    moved = (
        cells.filter(pl.col("outcome") == "another_error")
        .group_by(*keys, "prediction_id", "prediction")
        .len()
        .sort("len", "prediction_id", descending=[True, False])
        .unique(["true_class_id", "taken_class_id"], keep="first", maintain_order=True)
        .select("true_class_id", "taken_class_id", pl.col("prediction").alias("moved_to"))
    )
    counts = ["before", "repaired", "same_error", "another_error", "newly_wrong", "moved_here"]
    pair = ["true_class_id", "taken_class_id"]
    table = (
        before.join(came, on=keys, how="full", coalesce=True)
        .with_columns(pl.col(counts).fill_null(0).cast(pl.Float64) / seeds)
        .with_columns(
            (pl.col("same_error") + pl.col("newly_wrong") + pl.col("moved_here")).alias("after")
        )
        .join(images, on="true_class_id")
        .join(moved, on=pair, how="left")
        .with_columns(pl.col("images").cast(pl.Int64))
        .sort("before", "after", *pair, descending=[True, True, False, False])
    )
    if not repaired:
        empty = [name for name in (*counts, "after") if name != "before"]
        table = table.with_columns(pl.lit(None, pl.Float64).alias(name) for name in empty)
    return PAIR_RESULTS.select(table)


def class_results(
    outcomes: pl.DataFrame, pairs: pl.DataFrame, classes: pl.DataFrame, repaired: bool
) -> pl.DataFrame:
    """Accuracy of every class, and what it is mostly taken for.

    Args:
        outcomes: from `image_outcomes`, of all seeds.
        pairs: table `pair_results` of them.
        classes: table `classes`.
        repaired: whether there is a repaired model.

    Returns:
        Rows as in the table `class_results`, in the order of `classes`.
    """
    right_before = pl.col("base_prediction_id") == pl.col("true_class_id")
    right_after = pl.col("prediction_id") == pl.col("true_class_id")
    counted = outcomes.group_by("true_class_id").agg(
        pl.col("sample_id").n_unique().alias("images"),
        right_before.mean().alias("before"),
        right_after.mean().alias("after"),
    )
    found = {row[0]: row[1:] for row in counted.iter_rows()}
    number = "after" if repaired else "before"
    taken: dict[int, list[tuple[str, float]]] = {}
    ranked = pairs.filter(pl.col(number) > 0).sort(
        number, "taken_class_id", descending=[True, False]
    )
    columns = ("true_class_id", "taken_class", number)
    for class_id, name, images in ranked.select(columns).iter_rows():
        taken.setdefault(class_id, []).append((name, images))
    rows = []
    for class_id, name, group in classes.select("class_id", "class_name", "group").iter_rows():
        images, before, after = found.get(class_id, (0, None, None))
        mostly = taken.get(class_id, [])[:_SHOWN_CLASSES]
        row = {
            "group": group,
            "class_id": class_id,
            "class_name": name,
            "images": images,
            "mostly_taken_for": [other for other, _ in mostly],
            "taken_for_images": [number for _, number in mostly],
        }
        for when, share in (("before", before), ("after", after if repaired else None)):
            if share is not None:
                low, high = wilson_interval(share, images)
                row |= {
                    f"accuracy_{when}": share,
                    f"accuracy_{when}_low": low,
                    f"accuracy_{when}_high": high,
                }
        rows.append(row)
    return CLASS_RESULTS.frame(rows)


def confusion_counts(
    pairs: pl.DataFrame, class_ids: Sequence[int], number: str = "before"
) -> np.ndarray:
    """Images of class (row) taken for class (column), [C, C], from a table `pair_results`.

    Args:
        pairs: the table.
        class_ids: of the rows and columns, in their order; pairs with other classes are left out.
        number: which column of the table is counted.

    Returns:
        Means over seeds; the diagonal is 0.
    """
    position = {class_id: index for index, class_id in enumerate(class_ids)}
    counts = np.zeros((len(class_ids), len(class_ids)))
    for true, taken, value in pairs.select("true_class_id", "taken_class_id", number).iter_rows():
        if true in position and taken in position:
            counts[position[true], position[taken]] = value or 0
    return counts


def run_changes(before: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """What two runs of one's own answer differently, image by image.

    Images are matched by their paths and classes by their names: the runs may stem from data sets
    that were prepared apart, with images and classes added or labels corrected.

    Args:
        before: table `predictions` or `run_predictions` of the other run.
        now: of this run.

    Returns:
        Rows as in the table `run_changes`, by path: images whose answer, or whether it is right,
        is another, and those that one run lacks. Test images are compared; all where none is set
        apart.
    """
    old, new = (_answers(frame, when) for frame, when in ((before, "before"), (now, "now")))
    both = old.join(new, on="path", how="full", coalesce=True).with_columns(
        pl.coalesce("now_true", "before_true").alias("true_class"),
        pl.when(pl.col("before").is_null())
        .then(pl.lit("added"))
        .when(pl.col("now").is_null())
        .then(pl.lit("removed"))
        .when(~pl.col("before_right") & pl.col("now_right"))
        .then(pl.lit("repaired"))
        .when(pl.col("before_right") & ~pl.col("now_right"))
        .then(pl.lit("newly_wrong"))
        .when(pl.col("before") != pl.col("now"))
        .then(pl.lit("another_error"))
        .alias("outcome"),
    )
    changed = both.filter(pl.col("outcome").is_not_null()).sort("path")
    return RUN_CHANGES.select(changed)


def _answers(predictions: pl.DataFrame, when: str) -> pl.DataFrame:
    return (
        counted_images(predictions)
        .unique("path", keep="first", maintain_order=True)
        .select(
            "path",
            pl.col("true_class").alias(f"{when}_true"),
            pl.col("pseudo_label").alias(when),
            pl.col("confidence").cast(pl.Float64).alias(f"{when}_confidence"),
            pl.col("correct").alias(f"{when}_right"),
        )
    )


def _counts(*outcomes: str) -> list[pl.Expr]:
    return [(pl.col("outcome") == outcome).sum().alias(outcome) for outcome in outcomes]
