"""Compare a fresh results table with the committed one.

    python -m benchmarks.check_results artifacts/results.parquet docs/results/proctex.csv

On one machine results repeat exactly. Between machines floating-point sums differ in their last
bits, and training amplifies that: accuracies may differ by `ACCURACY_POINTS`, correction and broken
rates, which rest on fewer images, by `RATE_POINTS`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

ACCURACY_POINTS = 2.0
RATE_POINTS = 8.0
KEYS = ["dataset", "method", "variant", "protocol", "seed", "metric"]


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


def main() -> int:
    """Exit code 0 when the tables agree, 1 when they do not."""
    fresh, committed = Path(sys.argv[1]), Path(sys.argv[2])
    lines = differences(pl.read_parquet(fresh), pl.read_csv(committed))
    for line in lines:
        print(line)
    print(
        f"{len(lines)} differences beyond {ACCURACY_POINTS} points (accuracies) "
        f"or {RATE_POINTS} points (rates)"
    )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
