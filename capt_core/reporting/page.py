"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import polars as pl

from capt_core.reporting.findings import Findings
from capt_core.reporting.summary import summarise, to_markdown


def render_page(results: pl.DataFrame, datasets: Sequence[Findings]) -> str:
    """Render the report.

    Args:
        results: table `results` of all runs; may be empty.
        datasets: what is shown of each data set, in this order.

    Returns:
        An HTML document. Equal inputs give equal text.
    """
    summary = summarise(results, [found.name for found in datasets if not found.evidence])
    parts = [to_markdown(summary)]
    for found in datasets:
        parts += [found.name, *found.warnings, *found.facts]
        parts += [f"{what}: {command}" for what, command in found.further]
        parts += [str(row) for row in found.steps.iter_rows()]
    return f"<!doctype html><title>Report</title><pre>{escape(chr(10).join(parts))}</pre>\n"
