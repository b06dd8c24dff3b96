"""Compare a fresh results table with the committed one.

    python -m benchmarks.check_results artifacts/results.parquet docs/results/proctex.csv
    python -m benchmarks.check_results artifacts/tables/table1.csv docs/results/table1.csv

On one machine results repeat exactly. Between machines floating-point sums differ in their last
bits, and training amplifies that: accuracies may differ by `ACCURACY_POINTS`, correction and broken
rates, which rest on fewer images, by `RATE_POINTS`. What is counted or said must be equal; seconds
are not compared.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

ACCURACY_POINTS = 2.0
RATE_POINTS = 8.0
KEYS = ["dataset", "method", "variant", "protocol", "seed", "metric"]

_MEANS = {
    "base": "base_accuracy",
    "novel": "novel_accuracy",
    "hm": "harmonic_mean",
    "corrected": "test_correction_rate",
    "broken": "broken_rate",
}


def differences(fresh: pl.DataFrame, committed: pl.DataFrame) -> list[str]:
    """Rows that are missing, new, or farther apart than the tolerance, one line each."""
    both = committed.join(fresh, on=KEYS, how="full", suffix="_fresh", coalesce=True).sort(KEYS)
    lines = []
    for row in both.iter_rows(named=True):
        allowed = RATE_POINTS if row["metric"].endswith("_rate") else ACCURACY_POINTS
        old, new = row["value"], row["value_fresh"]
        close = old == new or (old is not None and new is not None and abs(old - new) <= allowed)
        if not close or row["n"] != row["n_fresh"]:
            key = "/".join(str(row[name]) for name in KEYS)
            lines.append(f"{key}: {old} (n={row['n']}) committed, {new} (n={row['n_fresh']}) fresh")
    return lines


def table_differences(fresh: pl.DataFrame, committed: pl.DataFrame) -> list[str]:
    """The same of two tables of all methods, whose values are means over seeds."""
    lines = differences(_by_metric(fresh), _by_metric(committed))
    said = ["row", "block", "sees", "parameters"]
    both = committed.select(said).join(fresh.select(said), on="row", suffix="_fresh")
    for row in both.iter_rows(named=True):
        lines += (
            f"{row['row']}: {name} {row[name]} committed, {row[f'{name}_fresh']} fresh"
            for name in said[1:]
            if row[name] != row[f"{name}_fresh"]
        )
    return lines


def _by_metric(table: pl.DataFrame) -> pl.DataFrame:
    """A table of all methods with one line per row and metric, as `differences` takes it."""
    return table.select(
        "dataset",
        "method",
        pl.col("row").alias("variant"),
        pl.lit("").alias("protocol"),
        pl.lit("mean").alias("seed"),
        pl.col("seeds").alias("n"),
        *(pl.col(name).alias(metric) for name, metric in _MEANS.items()),
    ).unpivot(
        list(_MEANS.values()), index=[*KEYS[:-1], "n"], variable_name="metric", value_name="value"
    )


def main() -> int:
    """Exit code 0 when the tables agree, 1 when they do not."""
    paths = Path(sys.argv[1]), Path(sys.argv[2])
    fresh, committed = (
        pl.read_parquet(path)
        if path.suffix == ".parquet"
        else pl.read_csv(path, infer_schema_length=None)
        for path in paths
    )
    compare = table_differences if "row" in committed.columns else differences
    lines = compare(fresh, committed)
    for line in lines:
        print(line)
    print(
        f"{len(lines)} differences beyond {ACCURACY_POINTS} points (accuracies) "
        f"or {RATE_POINTS} points (rates)"
    )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
