"""Results over seeds and data sets, as a frame, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from capt_core.evaluation.metrics import harmonic_mean
from capt_core.methods.registry import BASE_METHOD, method_label


@dataclass(frozen=True)
class Metric:
    """A column of the results table.

    Attributes:
        name: as in the table `results`.
        heading: for people.
        accuracy: comparable with zero-shot CLIP's own value. The other metrics describe a
            change of the base model's answers; zero-shot CLIP, the usual base model, has none.
        higher_is_better: which way is good.
    """

    name: str
    heading: str
    accuracy: bool
    higher_is_better: bool


METRICS = (
    Metric("base_accuracy", "Base accuracy", True, True),
    Metric("novel_accuracy", "Novel accuracy", True, True),
    Metric("harmonic_mean", "Harmonic mean", True, True),
    Metric("bank_correction_rate", "Bank errors corrected", False, True),
    Metric("base_correction_rate", "Base errors corrected", False, True),
    Metric("base_broken_rate", "Base right broken", False, False),
    Metric("test_correction_rate", "All errors corrected", False, True),
    Metric("broken_rate", "All right broken", False, False),
)

AVERAGE = "average"
"""Stands in the column `dataset` of the rows that average over data sets."""

MISSING = "–"

_GROUP = ["protocol", "dataset", "method", "variant", "sees"]


def summarise(results: pl.DataFrame, not_averaged: Collection[str] = ()) -> pl.DataFrame:
    """Mean and population standard deviation over seeds; averages over data sets.

    The mean of `harmonic_mean` is the harmonic mean of the seed-averaged base and novel
    accuracies, and of the averaged accuracies in the average rows (how the field computes it).
    Its standard deviation is that of the per-seed harmonic means.

    Args:
        results: rows of the table `results`; values in percent, null where nothing was counted.
        not_averaged: data sets that the average leaves out.

    Returns:
        One row per protocol, data set, method, variant and `sees`: `seeds`, and per metric
        `<metric>_mean` and `<metric>_sd` in percent and `<metric>_seeds`, the seeds that have a
        value. Runs that saw different things are never averaged. Where two
        or more data sets remain, rows with data set `average` follow for each method that was
        measured on all of them; standard deviations are null there. Zero-shot CLIP comes first.
    """
    statistics = []
    for metric in METRICS:
        value = pl.col("value").filter(pl.col("metric") == metric.name).drop_nulls()
        statistics += [
            value.mean().alias(f"{metric.name}_mean"),
            value.std(ddof=0).alias(f"{metric.name}_sd"),
            value.len().cast(pl.Int64).alias(f"{metric.name}_seeds"),
        ]
    per_dataset = _with_harmonic_of_means(
        results.group_by(_GROUP).agg(
            pl.col("seed").n_unique().cast(pl.Int64).alias("seeds"), *statistics
        )
    )
    frame = pl.concat([per_dataset, _averages(per_dataset, not_averaged)])
    return frame.sort(
        "protocol",
        pl.col("dataset") == AVERAGE,
        "dataset",
        pl.col("method") != BASE_METHOD,
        "method",
        "variant",
        "sees",
    )


def to_markdown(summary: pl.DataFrame, notes: Mapping[str, Sequence[str]] | None = None) -> str:
    """Results as Markdown, one table per protocol.

    Args:
        summary: from `summarise`.
        notes: warnings by data set, printed above the tables.
    """
    lines = ["# Results", ""]
    for dataset, texts in sorted((notes or {}).items()):
        for text in texts:
            lines += [f"> **{_plain(dataset)}: {text}**", ""]
    headings = ["Data set", "Method", "Sees", "Seeds", *(metric.heading for metric in METRICS)]
    for protocol in summary["protocol"].unique(maintain_order=True).to_list():
        lines += [f"## {_plain(in_words(protocol))}", ""]
        lines.append(f"| {' | '.join(headings)} |")
        lines.append(f"|{'---|' * 3}{'---:|' * (len(headings) - 3)}")
        for row in summary.filter(pl.col("protocol") == protocol).iter_rows(named=True):
            seeds = MISSING if row["seeds"] is None else str(row["seeds"])
            name = method_name(row["method"], row["variant"])
            numbers = (_cell(row, metric) for metric in METRICS)
            cells = [row["dataset"], name, row["sees"], seeds, *numbers]
            lines.append(f"| {' | '.join(_plain(cell) for cell in cells)} |")
        lines.append("")
    lines.append(
        "Percent; mean ± population standard deviation over seeds. The harmonic mean is taken "
        "of the averaged base and novel accuracies. Sees: what a run saw beyond few-shot images "
        "of base classes and their names."
    )
    return "\n".join(lines) + "\n"


def to_csv(summary: pl.DataFrame, notes: Mapping[str, Sequence[str]] | None = None) -> str:
    """`summary` as CSV, numbers to 4 decimals, with the data sets' warnings in a column `note`."""
    texts = {dataset: " ".join(lines) for dataset, lines in (notes or {}).items()}
    note = pl.Series(
        "note", [texts.get(name, "") for name in summary["dataset"].to_list()], dtype=pl.String
    )
    return summary.with_columns(note).write_csv(float_precision=4)


def method_name(method: str, variant: str) -> str:
    """A method as people call it; the variant is named unless it is the default one."""
    name = method_label(method)
    return name if variant in ("", "default") else f"{name}, {variant}"


def in_words(name: str) -> str:
    """An identifier as words: ``base_to_novel`` becomes ``Base to novel``."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def described_change(row: Mapping[str, object], metric: Metric) -> bool:
    """Whether a metric says anything about a row: zero-shot CLIP corrects nothing."""
    return metric.accuracy or row["method"] != BASE_METHOD


def _averages(per_dataset: pl.DataFrame, not_averaged: Collection[str]) -> pl.DataFrame:
    counted = per_dataset.filter(~pl.col("dataset").is_in(list(not_averaged))).sort(_GROUP)
    # Averages over different data sets cannot be compared with each other.
    wanted = counted.select("protocol", "dataset").unique().group_by("protocol").len("wanted")
    keys = ["protocol", "method", "variant", "sees"]
    same_seeds = pl.col("seeds").n_unique() == 1
    null = pl.lit(None)
    averages = (
        counted.group_by(keys)
        .agg(
            pl.len().alias("found"),
            pl.when(same_seeds).then(pl.col("seeds").first()).otherwise(None).alias("seeds"),
            *(pl.col(f"{metric.name}_mean").mean() for metric in METRICS),
        )
        .join(wanted, on="protocol")
        .filter(pl.col("found") == pl.col("wanted"), pl.col("wanted") > 1)
        .with_columns(
            pl.lit(AVERAGE).alias("dataset"),
            *(null.cast(pl.Float64).alias(f"{metric.name}_sd") for metric in METRICS),
            *(null.cast(pl.Int64).alias(f"{metric.name}_seeds") for metric in METRICS),
        )
    )
    return _with_harmonic_of_means(averages).select(per_dataset.columns)


def _with_harmonic_of_means(frame: pl.DataFrame) -> pl.DataFrame:
    means = [
        None if base is None or novel is None else harmonic_mean(base, novel)
        for base, novel in frame.select("base_accuracy_mean", "novel_accuracy_mean").iter_rows()
    ]
    return frame.with_columns(pl.Series("harmonic_mean_mean", means, dtype=pl.Float64))


def _cell(row: Mapping[str, object], metric: Metric) -> str:
    mean, sd, seeds = (row[f"{metric.name}_{part}"] for part in ("mean", "sd", "seeds"))
    if mean is None or not described_change(row, metric):
        return MISSING
    text = f"{mean:.2f}"
    if isinstance(seeds, int) and seeds > 1:
        text += f" ± {sd:.2f}"
    if seeds is not None and seeds != row["seeds"]:
        text += f" ({seeds} of {row['seeds']} seeds)"
    return text


def _plain(text: str) -> str:
    """Text that cannot break out of its Markdown cell or turn into markup."""
    for character in "\\|`*_<>[]":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
