"""The study: our ablations beside the paper's, and whether the tendencies agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from capt_core.evaluation.metrics import harmonic_mean
from capt_core.reporting.figures import study_chart
from capt_core.reporting.html import page_template
from capt_core.study import Row, Table

ACCURACIES = ("base_accuracy", "novel_accuracy", "harmonic_mean")
RATES = ("bank_correction_rate", "base_correction_rate", "base_broken_rate")
CLEAR = 2.0
"""A difference is clear when it exceeds this many of its standard errors over seeds."""


@dataclass(frozen=True)
class Measured:
    """One run's metric over seeds, in percent.

    Attributes:
        mean: over seeds; the harmonic mean's is that of the averaged accuracies.
        sd: population standard deviation over seeds.
    """

    mean: float
    sd: float


def measure(results: pl.DataFrame, row: Row) -> dict[str, Measured]:
    """Every metric of a row; empty when it was not run.

    Args:
        results: rows of the table `results` with the variant's name in `variant`.
        row: its variant and method are selected.
    """
    mine = results.filter(
        pl.col("variant") == row.variant,
        pl.col("method") == row.method,
        pl.col("value").is_not_null(),
    )
    found = {
        name: Measured(float(mean), float(sd))
        for name, mean, sd in mine.group_by("metric")
        .agg(pl.col("value").mean().alias("mean"), pl.col("value").std(ddof=0).alias("sd"))
        .iter_rows()
    }
    if "base_accuracy" in found and "novel_accuracy" in found:
        mean = harmonic_mean(found["base_accuracy"].mean, found["novel_accuracy"].mean)
        found["harmonic_mean"] = Measured(mean, found["harmonic_mean"].sd)
    return found


def difference(
    results: pl.DataFrame, first: Row, second: Row, metric: str
) -> tuple[float, bool] | None:
    """Mean of second - first over seeds, and whether it is clear.

    Clear means more than two standard errors of the paired differences (sample standard
    deviation over the root of the number of seeds); None when fewer than two seeds have both.
    """
    keys = ["dataset", "seed"]
    parts = [
        results.filter(
            pl.col("variant") == row.variant,
            pl.col("method") == row.method,
            pl.col("metric") == metric,
        ).select(*keys, pl.col("value").alias(name))
        for row, name in ((first, "first"), (second, "second"))
    ]
    paired = parts[0].join(parts[1], on=keys).drop_nulls()
    if len(paired) < 2:
        return None
    changes = paired["second"] - paired["first"]
    mean, sd = changes.mean(), changes.std()
    assert isinstance(mean, float)
    assert isinstance(sd, float)
    return mean, abs(mean) > CLEAR * sd / len(paired) ** 0.5


def not_run(results: pl.DataFrame, table: Table) -> list[str]:
    """Labels of the rows that lack a harmonic mean of a draw that another row of the table has."""
    known = results.filter(pl.col("metric") == "harmonic_mean", pl.col("value").is_not_null())
    draws = [
        set(
            known.filter(pl.col("variant") == row.variant, pl.col("method") == row.method)
            .select("dataset", "seed")
            .iter_rows()
        )
        for row in table.rows
    ]
    every = set[tuple[str, int]]().union(*draws)
    return [row.label for row, own in zip(table.rows, draws, strict=True) if own != every]


def tendency(results: pl.DataFrame, table: Table) -> str:
    """Sentences on whether our differences point where the paper's do.

    There is a verdict only where every row was run on the same draws; else the others are named.
    """
    full = table.full
    missing = not_run(results, table)
    if missing:
        return f"No verdict; not run on every draw: {', '.join(missing)}."
    if full.setting is not None:
        return _curve_tendency(results, table)
    sentences = []
    for row in table.rows:
        if row is full:
            continue
        found = difference(results, row, full, "harmonic_mean")
        if found is None:
            continue
        change, clear = found
        ours = f"{row.label}: {change:+.2f} points of harmonic mean from here to {full.label}"
        if row.paper is None or full.paper is None:
            sentences.append(f"{ours}{'' if clear else ' (not clear)'}.")
            continue
        theirs = full.paper[2] - row.paper[2]
        if not clear:
            verdict = "no clear difference here"
        else:
            verdict = "agrees" if (change > 0) == (theirs > 0) else "disagrees"
        sentences.append(f"{ours}, {theirs:+.2f} in the paper: {verdict}.")
    return " ".join(sentences)


def _curve_tendency(results: pl.DataFrame, table: Table) -> str:
    full = table.full
    means = {
        row: found["harmonic_mean"].mean
        for row in table.rows
        if "harmonic_mean" in (found := measure(results, row))
    }
    if not means:
        return ""
    best = max(means, key=lambda row: means[row])
    if best is full:
        others = [row for row in means if row is not full]
        close = [row.label for row in others if not _clearly_better(results, full, row)]
        if close:
            return (
                f"Best at {best.label}, as in the paper: no clear difference here from "
                f"{', '.join(close)}."
            )
        return f"Best at {best.label}, as in the paper: agrees."
    verdict = "disagrees" if _clearly_better(results, best, full) else "no clear difference here"
    return (
        f"Best at {best.label}, {means[best] - means[full]:+.2f} points of harmonic mean over "
        f"{full.label}, the paper's best: {verdict}."
    )


def _clearly_better(results: pl.DataFrame, row: Row, other: Row) -> bool:
    found = difference(results, other, row, "harmonic_mean")
    return found is not None and found[1] and found[0] > 0


_HEADINGS: Mapping[str, str] = {
    "base_accuracy": "Base",
    "novel_accuracy": "Novel",
    "harmonic_mean": "HM",
    "bank_correction_rate": "Bank corrected",
    "base_correction_rate": "Base errors corrected",
    "base_broken_rate": "Base right broken",
}


def table_cells(results: pl.DataFrame, table: Table) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of one study table as text."""
    with_paper = any(row.paper for row in table.rows)
    headings = ["", *(_HEADINGS[name] for name in (*ACCURACIES, *RATES))]
    if with_paper:
        headings += ["Paper: base", "novel", "HM"]
    if not table.source:
        headings.append("Sees")
    rows = []
    for row in table.rows:
        found = measure(results, row)
        cells = [row.label]
        for name in (*ACCURACIES, *RATES):
            shown = found.get(name) if name in ACCURACIES or row.method != "clip" else None
            cells.append("–" if shown is None else f"{shown.mean:.2f} ± {shown.sd:.2f}")
        if with_paper:
            cells += [f"{value:.2f}" for value in row.paper] if row.paper else ["–"] * 3
        if not table.source:
            seen = results.filter(pl.col("variant") == row.variant, pl.col("method") == row.method)
            cells.append(", ".join(seen["sees"].unique(maintain_order=True).to_list()))
        rows.append(cells)
    return headings, rows


def lead(results: pl.DataFrame, images: int) -> str:
    """What the study ran on and how to read it."""
    seeds = results["seed"].n_unique()
    dataset = ", ".join(results["dataset"].unique().sort().to_list())
    return (
        f"Data set {dataset}, {images:,} test images, {seeds} seeds; percent, mean ± population "
        "standard deviation over seeds. The harmonic mean (HM) is taken of the averaged "
        "accuracies. A difference is called clear when it exceeds two standard errors of its "
        "paired differences over the seeds. The paper's numbers are averages over eleven data "
        "sets with another backbone: only the direction of a difference can be compared."
    )


def to_markdown(results: pl.DataFrame, tables: Sequence[Table], images: int) -> str:
    """All study tables as Markdown.

    Args:
        results: rows of the table `results`.
        tables: the ablations.
        images: test images behind every accuracy.
    """
    lines = ["# Study", "", lead(results, images), ""]
    for table in tables:
        title = f"{table.title} ({table.source} of the paper)" if table.source else table.title
        headings, rows = table_cells(results, table)
        lines += [f"## {title}", "", f"| {' | '.join(headings)} |"]
        lines.append("|---|" + "---:|" * (len(headings) - 1))
        lines += [f"| {' | '.join(cells)} |" for cells in rows]
        lines.append("")
        for text in (tendency(results, table), table.remark):
            if text:
                lines += [text, ""]
    return "\n".join(lines).rstrip() + "\n"


def to_html(results: pl.DataFrame, tables: Sequence[Table], images: int) -> str:
    """The same tables with a chart each, as a page that needs nothing but itself."""
    shown = []
    for table in tables:
        headings, rows = table_cells(results, table)
        measured = [measure(results, row) for row in table.rows]
        series = {
            _HEADINGS[name]: [
                (found[name].mean, found[name].sd) if name in found else None for found in measured
            ]
            for name in ACCURACIES
        }
        shown.append(
            {
                "anchor": table.name,
                "title": table.title,
                "source": table.source,
                "headings": headings,
                "rows": rows,
                "chart": study_chart([row.label for row in table.rows], series),
                "alt": f"Accuracies of the rows of the table: {table.title}",
                "before": "",
                "texts": [text for text in (tendency(results, table), table.remark) if text],
            }
        )
    return page_template("study.html.jinja").render(
        heading="CAPT study", lead=lead(results, images), tables=shown
    )
