"""Stage report: results tables, and one HTML page over all data sets with its tables beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from capt_core.artifacts.files import write_text
from capt_core.artifacts.layout import Layout, ReportLayout
from capt_core.artifacts.lineage import untraced
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import EVALUATION, RESULTS
from capt_core.artifacts.tables import read_table, write_table
from capt_core.data.dataset import image_root, load_dataset
from capt_core.errors import CaptError
from capt_core.evaluation.outcomes import run_changes
from capt_core.params import settings_hash
from capt_core.reporting.analysis import find
from capt_core.reporting.findings import Findings
from capt_core.reporting.inputs import DatasetInputs, evaluation_records, find_datasets, read_inputs
from capt_core.reporting.page import render_page
from capt_core.reporting.summary import summarise, to_csv, to_markdown
from capt_core.reporting.tables import write_tables

from . import options
from .console import result, warn
from .invocation import Run
from .stage import Stage

STAGE = Stage(
    params=("data.root", "fewshot.shots", "report"),
    # Each record of an evaluation names what else the report shows of it, with digests.
    reads=lambda at: (at.report.evaluations,),
    writes=lambda at: (
        at.report.results,
        at.report.results_csv,
        at.report.results_markdown,
        at.report.html,
        at.report.tables,
    ),
)


def main(
    run: Run,
    compare: Annotated[
        str | None,
        typer.Option(help="Run kept under a name (--run), or its folder of artifacts, to compare."),
    ] = None,
    current: Annotated[
        int | None,
        typer.Option(hidden=True, help="Up-to-date draw; what does not fit it is left out."),
    ] = None,
    json: options.Json = False,
) -> None:
    names = find_datasets(run.artifacts, run.dataset or None)
    origins = {}
    found = []
    tables = [EVALUATION.frame()]
    for name in names:
        inputs, findings, origins[name] = _findings(run, name, compare, current)
        found.append(findings)
        shown = {(each.method, each.seed) for each in inputs.runs}
        for path in evaluation_records(run.artifacts, name):
            table = read_table(EVALUATION, path)
            if table.select("method", "seed").row(0) in shown:
                tables.append(table)
    results = pl.concat(tables).sort(EVALUATION.key)
    paths = ReportLayout(run.artifacts)
    notes = {each.name: each.warnings for each in found if each.warnings}
    summary = summarise(results, [each.name for each in found if not each.evidence])
    write_text(paths.html, render_page(results, found))
    write_text(paths.results_markdown, to_markdown(summary, notes))
    write_text(paths.results_csv, to_csv(summary, notes))
    origin = Provenance("+".join(names), settings=settings_hash(run.settings.report))
    write_table(RESULTS, results, paths.results, origin)
    beside = [path for each in found for path in write_tables(each, paths, origins[each.name])]
    for name, texts in notes.items():
        for text in texts:
            warn(f"{name}: {text}")
    written = (paths.html, paths.results_markdown, paths.results_csv, paths.results, *beside)
    result(
        {
            "results": summary.to_dicts(),
            "summary": {each.name: each.summary.to_dicts() for each in found},
            "files": [str(path) for path in written],
        },
        f"{len(results)} results of {', '.join(names)} -> {paths.html}",
    )


def _findings(
    run: Run, name: str, compare: str | None, current: int | None
) -> tuple[DatasetInputs, Findings, Provenance]:
    """What there is of a data set, what is shown of it, and the origin of its tables."""
    layout, settings = Layout(run.artifacts, name), run.settings_for(name)
    dataset = load_dataset(layout)
    root = _image_root(layout, settings.data.root)
    shown = settings.report
    inputs = read_inputs(layout, dataset, root, settings.fewshot.shots, shown.method, current, warn)
    origin = dataset.provenance(inputs.backbone, settings_hash(shown))
    compared = None
    if compare is not None:
        other = Layout(options.kept_run(run.artifacts, compare), name)
        with untraced():
            before = read_inputs(other, load_dataset(other), None, inputs.shots)
        compared = (compare, run_changes(before.answers, inputs.answers))
    return inputs, find(inputs, shown.projection, compared), origin


def _image_root(layout: Layout, root: str | None) -> Path | None:
    """Folder of the images; None where they are not at hand, which a report can do without."""
    try:
        return image_root(layout, root)
    except CaptError as error:
        warn(f"{layout.dataset}: the report shows no images: {error}")
        return None
