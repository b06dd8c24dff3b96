"""Results over seeds and data sets, as a frame, rows for people, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    Metric("accuracy", "Accuracy", True, True),
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


@dataclass(frozen=True)
class Cell:
    """One number in percent; all None where there is nothing to tell.

    Attributes:
        mean: over seeds.
        sd: population standard deviation over seeds; None for fewer than two.
        delta: difference to zero-shot CLIP's mean, percentage points; None for itself.
        seeds: how many seeds have a value, named only where not all have.
        best: best of the data set.
    """

    mean: float | None = None
    sd: float | None = None
    delta: float | None = None
    seeds: int | None = None
    best: bool = False


@dataclass(frozen=True)
class MethodRow:
    """A method's results on one data set.

    `sees` says what it saw beyond few-shot images of base classes and their names.
    """

    method: str
    sees: str
    base_model: bool
    seeds: int | None
    cells: list[Cell]


@dataclass(frozen=True)
class DatasetRows:
    """The methods measured on one data set, or the average over data sets."""

    dataset: str
    rows: list[MethodRow]


@dataclass(frozen=True)
class ResultTable:
    """The results under one protocol; cells of rows are in the order of `metrics`."""

    protocol: str
    metrics: list[Metric]
    datasets: list[DatasetRows]


def result_tables(summary: pl.DataFrame) -> list[ResultTable]:
    """Results by protocol, data set and method, in the order of `summary`."""
    tables = []
    for protocol in summary["protocol"].unique(maintain_order=True).to_list():
        part = summary.filter(pl.col("protocol") == protocol)
        names = part["dataset"].unique(maintain_order=True).to_list()
        metrics = measured(part)
        tables.append(
            ResultTable(
                protocol,
                metrics,
                [
                    _dataset_rows(name, part.filter(pl.col("dataset") == name).to_dicts(), metrics)
                    for name in names
                ],
            )
        )
    return tables


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
    for table in result_tables(summary):
        headings = ["Data set", "Method", "Sees", "Seeds"]
        headings += [metric.heading for metric in table.metrics]
        lines += [f"## {_plain(in_words(table.protocol))}", ""]
        lines.append(f"| {' | '.join(headings)} |")
        lines.append(f"|{'---|' * 3}{'---:|' * (len(headings) - 3)}")
        for part in table.datasets:
            for row in part.rows:
                seeds = MISSING if row.seeds is None else str(row.seeds)
                numbers = (_text(cell, row.seeds) for cell in row.cells)
                cells = [part.dataset, row.method, row.sees, seeds, *numbers]
                lines.append(f"| {' | '.join(_plain(cell) for cell in cells)} |")
        lines.append("")
    lines.append(
        "Percent; mean ± population standard deviation over seeds. The harmonic mean is taken "
        "of the averaged base and novel accuracies. Sees: what a run saw beyond few-shot images "
        "of base classes and their names."
    )
    return "\n".join(lines) + "\n"


def to_csv(summary: pl.DataFrame, notes: Mapping[str, Sequence[str]] | None = None) -> str:
    """`summary` as CSV, numbers to 4 decimals, with the data sets' warnings in a column `note`.

    Metrics that no row has are left out.
    """
    texts = {dataset: " ".join(lines) for dataset, lines in (notes or {}).items()}
    note = pl.Series(
        "note", [texts.get(name, "") for name in summary["dataset"].to_list()], dtype=pl.String
    )
    empty = [
        f"{metric.name}_{part}"
        for metric in set(METRICS).difference(measured(summary))
        for part in ("mean", "sd", "seeds")
    ]
    return summary.drop(empty).with_columns(note).write_csv(float_precision=4)


def measured(summary: pl.DataFrame) -> list[Metric]:
    """The metrics that some row of a summary has a value of."""
    return [metric for metric in METRICS if summary[f"{metric.name}_mean"].is_not_null().any()]


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


def _dataset_rows(
    dataset: str, rows: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]
) -> DatasetRows:
    base = next((row for row in rows if row["method"] == BASE_METHOD), None)
    best = {metric.name: _best(rows, metric) for metric in metrics}
    return DatasetRows(
        dataset,
        [
            MethodRow(
                method_name(row["method"], row["variant"]),
                row["sees"],
                row is base,
                row["seeds"],
                [_cell(row, metric, base, best[metric.name]) for metric in metrics],
            )
            for row in rows
        ],
    )


def _best(rows: Sequence[Mapping[str, Any]], metric: Metric) -> float | None:
    """The best mean; None where fewer than two rows compete."""
    means: list[float] = [
        row[f"{metric.name}_mean"]
        for row in rows
        if described_change(row, metric) and row[f"{metric.name}_mean"] is not None
    ]
    if len(means) < 2:
        return None
    return max(means) if metric.higher_is_better else min(means)


def _cell(
    row: Mapping[str, Any], metric: Metric, base: Mapping[str, Any] | None, best: float | None
) -> Cell:
    mean = row[f"{metric.name}_mean"]
    if mean is None or not described_change(row, metric):
        return Cell()
    seeds = row[f"{metric.name}_seeds"]
    delta = None
    if metric.accuracy and base is not None and row is not base:
        reference = base[f"{metric.name}_mean"]
        delta = None if reference is None else mean - reference
    return Cell(
        mean,
        row[f"{metric.name}_sd"] if seeds is not None and seeds > 1 else None,
        delta,
        None if seeds == row["seeds"] else seeds,
        mean == best,
    )


def _text(cell: Cell, seeds: int | None) -> str:
    if cell.mean is None:
        return MISSING
    spread = "" if cell.sd is None else f" ± {cell.sd:.2f}"
    counted = "" if cell.seeds is None else f" ({cell.seeds} of {seeds} seeds)"
    return f"{cell.mean:.2f}{spread}{counted}"


def _plain(text: str) -> str:
    """Text that cannot break out of its Markdown cell or turn into markup."""
    for character in "\\|`*_<>[]":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
