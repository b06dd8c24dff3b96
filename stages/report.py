"""Stage report: results tables and one HTML page over all runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from capt_core.artifacts.files import write_text
from capt_core.artifacts.layout import Layout, ReportLayout
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import EVALUATION, RESULTS
from capt_core.artifacts.tables import read_table, write_table
from capt_core.data.dataset import image_root, load_dataset
from capt_core.params import settings_hash
from capt_core.reporting.inputs import (
    DatasetReport,
    find_runs,
    not_averaged,
    notes_by_dataset,
    read_dataset_report,
)
from capt_core.reporting.page import render_page
from capt_core.reporting.summary import summarise, to_csv, to_markdown

from . import options
from .console import result
from .invocation import Run
from .stage import Stage

STAGE = Stage(
    params=("data.root", "fewshot.shots", "report.pairs"),
    # Each record of an evaluation names what else the report shows of it, with digests.
    reads=lambda at: (at.report.evaluations,),
    writes=lambda at: (
        at.report.results,
        at.report.results_csv,
        at.report.results_markdown,
        at.report.html,
    ),
)


def main(run: Run, json: options.Json = False) -> None:
    found = find_runs(run.artifacts, run.dataset or None)
    results = pl.concat(
        [read_table(EVALUATION, record) for runs in found.values() for record in runs]
    ).sort(EVALUATION.key)
    shown = [_dataset_report(run, name, records) for name, records in found.items()]
    summary = summarise(results, not_averaged(shown))
    notes = notes_by_dataset(shown)
    paths = ReportLayout(run.artifacts)
    settings = run.settings
    write_text(paths.html, render_page(summary, shown, settings.report.pairs))
    write_text(paths.results_markdown, to_markdown(summary, notes))
    write_text(paths.results_csv, to_csv(summary, notes))
    origin = Provenance("+".join(found), settings=settings_hash(settings.report.pairs))
    write_table(RESULTS, results, paths.results, origin)
    written = (paths.html, paths.results_markdown, paths.results_csv, paths.results)
    result(
        {"results": summary.to_dicts(), "files": [str(path) for path in written]},
        f"{len(results)} results of {', '.join(found)} -> {paths.html}",
    )


def _dataset_report(run: Run, name: str, records: Sequence[Path]) -> DatasetReport:
    layout, settings = Layout(run.artifacts, name), run.settings_for(name)
    root = image_root(layout, settings.data.root)
    return read_dataset_report(layout, load_dataset(layout), root, records, settings.fewshot.shots)
