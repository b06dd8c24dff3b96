"""Tool doctor: look for the usual troubles and say how to mend them."""

from __future__ import annotations

from typing import Annotated

import typer

from stages import options


def main(
    dataset: Annotated[str, typer.Option(help="Data set to look for.")] = "proctex",
    params: options.Params = options.PARAMS,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
) -> None:
    """Check installation, weights, folders and data."""
    from rich.console import Console
    from rich.table import Table

    from capt_core.diagnosis import diagnose
    from capt_core.params import load_settings

    settings, _ = load_settings(params, dataset, set_ or ())
    findings = list(diagnose(settings, dataset, artifacts))
    table = Table("check", "", "found", "to mend it", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.check, finding.state, finding.detail, finding.remedy)
    Console(width=None if Console().is_terminal else 160).print(table)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)
