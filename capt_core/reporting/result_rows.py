"""The results table as the page shows it: deltas against zero-shot CLIP, best values marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from capt_core.methods.registry import BASE_METHOD
from capt_core.reporting.summary import METRICS, Metric, described_change, method_name


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
    """A method's results on one data set, cells in the order of `METRICS`.

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
    """The results under one protocol."""

    protocol: str
    datasets: list[DatasetRows]


def result_tables(summary: pl.DataFrame) -> list[ResultTable]:
    """Results by protocol, data set and method, in the order of `summary`."""
    tables = []
    for protocol in summary["protocol"].unique(maintain_order=True).to_list():
        part = summary.filter(pl.col("protocol") == protocol)
        names = part["dataset"].unique(maintain_order=True).to_list()
        tables.append(
            ResultTable(
                protocol,
                [
                    _dataset_rows(name, part.filter(pl.col("dataset") == name).to_dicts())
                    for name in names
                ],
            )
        )
    return tables


def _dataset_rows(dataset: str, rows: Sequence[Mapping[str, Any]]) -> DatasetRows:
    base = next((row for row in rows if row["method"] == BASE_METHOD), None)
    best = {metric.name: _best(rows, metric) for metric in METRICS}
    return DatasetRows(
        dataset,
        [
            MethodRow(
                method_name(row["method"], row["variant"]),
                row["sees"],
                row is base,
                row["seeds"],
                [_cell(row, metric, base, best[metric.name]) for metric in METRICS],
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
