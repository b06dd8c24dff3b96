"""The tables that stand beside the page: as Parquet, and as CSV of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from capt_core.artifacts import report_tables as declared
from capt_core.artifacts.files import write_text
from capt_core.artifacts.layout import ReportLayout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.tables import Table, write_table
from capt_core.reporting.findings import Findings

LIST_SEPARATOR = "; "


def tables_of(findings: Findings) -> Iterator[tuple[Table, pl.DataFrame]]:
    """Every table that the page shows of a data set, empty ones included."""
    yield declared.SUMMARY, findings.summary
    yield declared.TEST_ERRORS, findings.errors
    yield declared.PAIR_RESULTS, findings.pairs
    yield declared.CLASS_RESULTS, findings.class_results
    yield declared.SUSPECTED_LABELS, findings.suspects
    yield declared.NEXT_STEPS, findings.steps
    yield declared.RELIABILITY, findings.reliability
    yield declared.PRECISION, findings.precision
    yield declared.IMAGE_MAP, findings.image_map
    if findings.compared is not None:
        yield declared.RUN_CHANGES, findings.compared[1]


def write_tables(findings: Findings, layout: ReportLayout, provenance: Provenance) -> list[Path]:
    """Write a data set's tables; those of an earlier comparison are removed.

    Returns:
        What was written.

    Raises:
        CaptError: a file cannot be written.
    """
    written = []
    for table, frame in tables_of(findings):
        path = layout.table(findings.name, table.name)
        write_table(table, frame, path, provenance)
        write_text(path.with_suffix(".csv"), as_csv(frame))
        written += [path, path.with_suffix(".csv")]
    stale = layout.table(findings.name, declared.RUN_CHANGES.name)
    if findings.compared is None:
        for path in (stale, stale.with_suffix(".csv")):
            path.unlink(missing_ok=True)
    return written


def as_csv(frame: pl.DataFrame) -> str:
    """A frame as CSV; entries of lists are joined by "; "."""
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
    plain = frame.with_columns(
        pl.col(name).cast(pl.List(pl.String)).list.join(LIST_SEPARATOR) for name in lists
    )
    return plain.write_csv()
