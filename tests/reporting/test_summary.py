"""The results table: numbers worked by hand."""

from __future__ import annotations

import math
from io import StringIO

import polars as pl
import pytest

from capt_core.backbone.loading import UNTRAINED_WARNING
from capt_core.reporting.summary import (
    AVERAGE,
    method_name,
    result_tables,
    summarise,
    to_csv,
    to_markdown,
)
from tests.reporting.report_inputs import pets_results, results


def _row(summary: pl.DataFrame, dataset: str, method: str) -> dict[str, object]:
    rows = summary.filter(pl.col("dataset") == dataset, pl.col("method") == method)
    return rows.row(0, named=True)


def _two_seeds() -> pl.DataFrame:
    values = [
        ("pets", "capt", 1, "base_accuracy", 80.0),
        ("pets", "capt", 2, "base_accuracy", 40.0),
        ("pets", "capt", 1, "novel_accuracy", 20.0),
        ("pets", "capt", 2, "novel_accuracy", 40.0),
        ("pets", "capt", 1, "harmonic_mean", 32.0),
        ("pets", "capt", 2, "harmonic_mean", 40.0),
        ("pets", "capt", 1, "bank_correction_rate", 30.0),
        ("pets", "capt", 2, "bank_correction_rate", None),
    ]
    return results(values)


def test_mean_and_population_deviation_over_seeds() -> None:
    row = _row(summarise(_two_seeds()), "pets", "capt")
    assert row["seeds"] == 2
    assert (row["base_accuracy_mean"], row["base_accuracy_sd"]) == (60.0, 20.0)
    assert (row["novel_accuracy_mean"], row["novel_accuracy_sd"]) == (30.0, 10.0)


def test_harmonic_mean_is_of_the_averaged_accuracies_its_deviation_over_seeds() -> None:
    row = _row(summarise(_two_seeds()), "pets", "capt")
    assert row["harmonic_mean_mean"] == pytest.approx(40.0)  # of 60 and 30; seeds average to 36
    assert row["harmonic_mean_sd"] == pytest.approx(4.0)


def test_nulls_are_left_out_and_counted() -> None:
    summary = summarise(_two_seeds())
    row = _row(summary, "pets", "capt")
    assert (row["bank_correction_rate_mean"], row["bank_correction_rate_seeds"]) == (30.0, 1)
    assert (row["broken_rate_mean"], row["broken_rate_seeds"]) == (None, 0)
    assert "30.00 (1 of 2 seeds)" in to_markdown(summary)


def _two_datasets() -> pl.DataFrame:
    values = [
        (dataset, method, 1, metric, value)
        for dataset, method, base, novel in (
            ("a", "clip", 50.0, 40.0),
            ("b", "clip", 70.0, 20.0),
            ("a", "capt", 80.0, 60.0),
            ("b", "capt", 40.0, 20.0),
            ("a", "other", 99.0, 99.0),
        )
        for metric, value in (("base_accuracy", base), ("novel_accuracy", novel))
    ]
    return results(values)


def test_average_takes_the_harmonic_mean_of_the_mean_accuracies() -> None:
    summary = summarise(_two_datasets())
    row = _row(summary, AVERAGE, "capt")
    assert (row["base_accuracy_mean"], row["novel_accuracy_mean"]) == (60.0, 40.0)
    assert row["harmonic_mean_mean"] == pytest.approx(48.0)
    assert row["base_accuracy_sd"] is None
    # A method measured on one of two data sets has no comparable average.
    assert "other" not in summary.filter(pl.col("dataset") == AVERAGE)["method"].to_list()


def test_no_average_over_what_is_no_evidence() -> None:
    assert AVERAGE not in summarise(_two_datasets(), ["a"])["dataset"].to_list()


def test_base_model_first_average_last() -> None:
    summary = summarise(_two_datasets().reverse())
    assert summary["dataset"].to_list() == ["a", "a", "a", "b", "b", AVERAGE, AVERAGE]
    assert summary["method"].to_list() == ["clip", "capt", "other", "clip", "capt", "clip", "capt"]


def test_markdown_of_one_seed() -> None:
    text = to_markdown(summarise(pets_results()), {"pets": [UNTRAINED_WARNING]})
    assert text.startswith(f"# Results\n\n> **pets: {UNTRAINED_WARNING}**\n")
    assert "| pets | CLIP (zero-shot) | base only | 1 | 50.00 | 66.00 | 56.90 | – | – |" in text
    assert "| pets | CAPT | base only | 1 | 60.00 | 64.50 | 62.17 | – | 33.25 |" in text
    assert "±" not in text.split("\n\nPercent")[0]


def test_markdown_escapes_names() -> None:
    text = to_markdown(summarise(pets_results().with_columns(dataset=pl.lit("a|b <i>"))))
    assert r"| a\|b \<i\> |" in text


def test_csv_reads_back_with_notes() -> None:
    frame = pl.read_csv(StringIO(to_csv(summarise(pets_results()), {"pets": [UNTRAINED_WARNING]})))
    assert frame["note"].to_list() == [UNTRAINED_WARNING] * 2
    assert frame["base_accuracy_mean"].to_list() == [50.0, 60.0]
    assert frame["bank_correction_rate_mean"].to_list() == [0.0, None]


def test_runs_that_saw_different_things_are_not_averaged() -> None:
    seen = pl.when(pl.col("seed") == 1).then(pl.lit("base only")).otherwise(pl.lit("novel names"))
    summary = summarise(_two_seeds().with_columns(sees=seen))
    assert summary.select("sees", "seeds", "base_accuracy_mean").rows() == [
        ("base only", 1, 80.0),
        ("novel names", 1, 40.0),
    ]
    text = to_markdown(summary)
    assert "| pets | CAPT | novel names | 1 | 40.00 |" in text
    other = pl.when(pl.col("dataset") == "a").then(pl.lit("x")).otherwise(pl.lit("y"))
    mixed = summarise(_two_datasets().with_columns(sees=other))
    assert AVERAGE not in mixed["dataset"].to_list()
    assert [row.sees for row in result_tables(summary)[0].datasets[0].rows] == [
        "base only",
        "novel names",
    ]
    assert pl.read_csv(StringIO(to_csv(summary)))["sees"].to_list() == ["base only", "novel names"]


def test_empty_results() -> None:
    summary = summarise(results([]))
    assert summary.is_empty()
    assert result_tables(summary) == []
    assert to_markdown(summary).startswith("# Results")


def test_page_rows_compare_with_the_base_model() -> None:
    table = result_tables(summarise(pets_results()))[0]
    clip, capt = table.datasets[0].rows
    cells = dict(zip([metric.name for metric in table.metrics], capt.cells, strict=True))
    delta = cells["base_accuracy"].delta
    assert delta is not None
    assert math.isclose(delta, 10.0)
    assert cells["base_accuracy"].best
    assert not cells["novel_accuracy"].best
    assert cells["broken_rate"].mean == 33.25
    assert not cells["broken_rate"].best  # nobody to compete with
    assert clip.base_model
    assert clip.cells[3].mean is None  # the base model corrects nothing of its own
    assert clip.cells[0].delta is None


def test_method_names() -> None:
    assert method_name("capt", "") == "CAPT"
    assert method_name("capt", "no_statistics") == "CAPT, no_statistics"
    assert method_name("something", "default") == "something"
