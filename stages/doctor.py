"""Tool doctor: check for common problems and say how to fix them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from capt_core.artifacts.files import write_text
from capt_core.artifacts.layout import Layout
from capt_core.backbone.loading import load_backbone
from capt_core.data.class_counts import ClassCount, class_counts, class_lines
from capt_core.data.inspection import inspect_files
from capt_core.data.protocol import check_groups, class_groups
from capt_core.data.registry import DatasetSpec, check_dataset_name, dataset_spec
from capt_core.data.splits import SplitData
from capt_core.diagnosis import (
    Finding,
    check_data,
    check_files,
    check_prompts,
    diagnose,
    files_summary,
)
from capt_core.errors import CaptError
from capt_core.methods.importing.model import check_checkpoint
from capt_core.methods.method import Method, Need
from capt_core.methods.registry import check_methods, check_sections, configured_methods
from capt_core.methods.suitability import data_facts, unfit_data, unstartable, unsuited
from capt_core.methods.teaching import check_teacher
from capt_core.params import Settings, load_settings

from . import options
from .console import progress, result


def main(
    dataset: Annotated[str, typer.Option(help="Data set to look for.")] = "proctex",
    data_root: Annotated[
        str | None, typer.Option(help="Folder of the data set: --set data.root, for short.")
    ] = None,
    list_file: Annotated[
        Path | None, typer.Option("--list", help="Write every finding about a file to this CSV.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Method to ask about; those of `compare` if not given. Repeatable."),
    ] = None,
    params: options.Params = None,
    artifacts: options.Artifacts = options.ARTIFACTS,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    overrides = [*(set_ or ()), *([f"data.root={data_root}"] if data_root else [])]
    settings, matrix = load_settings(params, dataset, overrides)
    compared = method or matrix.compare
    check_methods([*settings.methods, *compared, settings.fit_teacher.method])
    check_sections(params, dataset, overrides)
    listed = dataset in matrix.datasets or Layout(artifacts, dataset).samples.is_file()
    check_dataset_name(dataset, settings.data, listed)
    spec = dataset_spec(dataset)
    findings = list(diagnose(settings, artifacts))
    methods = configured_methods(
        [settings.fit_teacher.method, *compared], params, dataset, overrides
    )
    findings += _unsuited(methods, settings)
    for remark in unstartable(methods, methods[0]):
        findings.append(Finding("methods", "fail", remark, "as it says, or compare without it"))
    findings += _checkpoint(methods[0], settings)
    findings += _teacher(methods, settings)
    on_data, found = check_data(settings, dataset)
    findings += on_data
    summary = f"{dataset}: no files to check"
    classes: list[ClassCount] = []
    if found is not None:
        split, image_root = found
        look = settings.prepare.check_images
        with progress("checked", len(split.samples)) as advance:
            inspection = inspect_files(spec, split, image_root, look, advance)
        findings.append(check_prompts(settings, spec, split))
        groups = class_groups(spec, split.class_names, settings.data)
        check_groups(dataset, groups)
        classes = class_counts(split, groups)
        findings += check_files(inspection, spec, str(settings.data.root))
        summary = files_summary(dataset, inspection)
        findings += _unfit(methods, settings, spec, split, groups)
        if list_file is not None:
            write_text(list_file, inspection.findings.write_csv())
    failed = any(finding.failed for finding in findings)
    result(
        {
            "dataset": dataset,
            "ok": not failed,
            "findings": [asdict(finding) for finding in findings],
            "classes": [asdict(entry) for entry in classes],
            "summary": summary,
        },
        _table(findings),
        *class_lines(classes),
        summary,
    )
    if failed:
        raise typer.Exit(1)


def _unsuited(methods: Sequence[Method], settings: Settings) -> Iterator[Finding]:
    """A finding per method that the backbone cannot be used with; none for an unknown backbone."""
    try:
        for remark in unsuited(methods, settings.backbone):
            yield Finding("methods", "fail", remark, "another backbone.name, or compare without it")
    except CaptError:
        return  # said where the weights are checked


def _unfit(
    methods: Sequence[Method],
    settings: Settings,
    spec: DatasetSpec,
    split: SplitData,
    groups: Sequence[str],
) -> Iterator[Finding]:
    """A finding per method that the listed classes and images do not do for."""
    classes = pl.DataFrame({"class_name": split.class_names, "group": groups}).with_row_index(
        "class_id"
    )
    try:
        facts = data_facts(
            spec.name,
            classes.with_columns(template=pl.lit(split.template or spec.template)),
            split.samples.filter(pl.col("split") == "train").height,
            settings.generate_prompts,
        )
    except CaptError as error:
        yield Finding("prompts", "fail", str(error), "another generate_prompts.store")
        return
    for remark in unfit_data(methods, facts):
        yield Finding("methods", "fail", remark, "compare without it")


def _checkpoint(method: Method, settings: Settings) -> Iterator[Finding]:
    """Whether the base model's checkpoint, if one is set, can be read on the backbone."""
    if settings.fit_teacher.checkpoint is None:
        return
    path = Path(settings.fit_teacher.checkpoint).expanduser()
    try:
        backbone = load_backbone(settings.backbone, settings.runtime)
    except CaptError:
        return  # said where the weights are checked
    try:
        yield Finding("base model", "ok", check_checkpoint(path, method, backbone))
    except CaptError as error:
        remedy = "--set fit_teacher.checkpoint=null fits a base model here"
        yield Finding("base model", "fail", str(error), remedy)


def _teacher(methods: Sequence[Method], settings: Settings) -> Iterator[Finding]:
    """Whether the teacher can be had, if a method distils from one."""
    names = [method.name for method in methods if Need.TEACHER in method.needs]
    if not names:
        return
    try:
        found = check_teacher(names, settings.teacher, settings.backbone)
        yield Finding("teacher", "ok", found)
    except CaptError as error:
        remedy = "as it says, or compare without " + ", ".join(names)
        yield Finding("teacher", "fail", str(error), remedy)


def _table(findings: Sequence[Finding]) -> str:
    table = Table("check", "", "found", "to fix it", box=None, pad_edge=False)
    for finding in findings:
        cells = (finding.check, finding.state, finding.detail, finding.remedy)
        # Text, not markup: names of files may hold brackets.
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    console = Console()
    if not console.is_terminal:
        # Nothing is wrapped in a file or pipe, so that commands can be copied.
        console = Console(width=Console(width=100_000).measure(table).maximum)
    with console.capture() as printed:
        console.print(table)
    return printed.get().rstrip("\n")
