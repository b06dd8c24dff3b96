"""Tool doctor: look for the usual troubles and say how to mend them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from capt_core.artifacts.files import write_text
from capt_core.artifacts.layout import Layout
from capt_core.data.inspection import inspect_files
from capt_core.data.registry import check_dataset_name, dataset_spec
from capt_core.diagnosis import (
    Finding,
    check_data,
    check_files,
    check_prompts,
    diagnose,
    files_summary,
)
from capt_core.params import load_settings

from . import options
from .run import progress, say


def main(
    dataset: Annotated[str, typer.Option(help="Data set to look for.")] = "proctex",
    data_root: Annotated[
        str | None, typer.Option(help="Folder of the data set: --set data.root, for short.")
    ] = None,
    list_file: Annotated[
        Path | None, typer.Option("--list", help="Write every finding about a file to this CSV.")
    ] = None,
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> None:
    """Check installation, weights, folders and every image of a data set."""
    overrides = [*(set_ or ()), *([f"data.root={data_root}"] if data_root else [])]
    settings, matrix = load_settings(params, dataset, overrides)
    listed = dataset in matrix.datasets or Layout(artifacts, dataset).samples.is_file()
    check_dataset_name(dataset, settings.data, listed)
    spec = dataset_spec(dataset)
    findings = list(diagnose(settings, artifacts))
    on_data, found = check_data(settings, dataset)
    findings += on_data
    summary = f"{dataset}: no files to check"
    if found is not None:
        split, image_root = found
        look = settings.prepare.check_images
        with progress("checked", len(split.samples)) as advance:
            inspection = inspect_files(spec, split, image_root, look, advance)
        findings.append(check_prompts(settings, spec, split))
        findings += check_files(inspection, spec, str(settings.data.root))
        summary = files_summary(dataset, inspection)
        if list_file is not None:
            write_text(list_file, inspection.findings.write_csv())
    _print(findings)
    say(summary)
    if any(finding.failed for finding in findings):
        raise typer.Exit(1)


def _print(findings: Sequence[Finding]) -> None:
    table = Table("check", "", "found", "to mend it", box=None, pad_edge=False)
    for finding in findings:
        cells = (finding.check, finding.state, finding.detail, finding.remedy)
        # Text, not markup: names of files may hold brackets.
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    console = Console()
    if not console.is_terminal:
        # Nothing is wrapped in a file or pipe, so that commands can be copied.
        console = Console(width=Console(width=100_000).measure(table).maximum)
    console.print(table)
